//! BTF, by which a kernel describes its own types (`Documentation/bpf/btf.rst`): where members of its structures are. Types stand
//! one behind another and are known by their number, so they are read from the first on, as far as is needed.

use anyhow::{Context, Result, bail, ensure};

use crate::memory::{Memory, Words};

const MAGIC: u16 = 0xeb9f;
/// More is no kernel's.
const LONGEST: u32 = 64 << 20;
/// So much is read at a time.
const PART: usize = 16 << 10;

// Kinds (include/uapi/linux/btf.h).
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;
const LAST_KIND: u32 = ENUM64;

/// The types of a kernel.
pub struct Btf {
    /// Where the types begin.
    types: u64,
    types_length: u32,
    strings: u64,
    strings_length: u32,
    /// What has been read of the types.
    read: Vec<u8>,
    /// Where in that each type is, from number 1 on.
    places: Vec<usize>,
}

/// A type.
struct Type {
    name: u32,
    kind: u32,
    /// The highest bit of what follows: bit-fields are told apart in a structure's members.
    flag: bool,
    count: u32,
    /// A size, or another type's number.
    size: u32,
    /// Where what belongs to it begins.
    rest: usize,
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is in there, in bytes.
    pub offset: u64,
    /// Its type's number.
    pub kind: u32,
}

impl Btf {
    /// Those at `start`; `memory` is by the kernel's own addresses.
    pub fn of(memory: &mut impl Memory, start: u64) -> Result<Self> {
        ensure!(memory.u16(start)? == MAGIC, "there is no BTF at {start:#x}");
        let mut word = |at| memory.u32(start + at);
        let header = u64::from(word(4)?);
        let (types, types_length) = (word(8)?, word(12)?);
        let (strings, strings_length) = (word(16)?, word(20)?);
        ensure!(
            types_length <= LONGEST && strings_length <= LONGEST,
            "the kernel's BTF claims {types_length} and {strings_length} bytes"
        );
        Ok(Self {
            types: start + header + u64::from(types),
            types_length,
            strings: start + header + u64::from(strings),
            strings_length,
            read: Vec::new(),
            places: vec![0],
        })
    }

    /// The number of the structure called `name`; what is no larger than `smallest` bytes is passed over without reading its
    /// name.
    pub fn structure(
        &mut self,
        memory: &mut impl Memory,
        name: &str,
        smallest: u32,
    ) -> Result<u32> {
        for number in 1.. {
            let Some(found) = self.find(memory, number)? else {
                break;
            };
            let fits = found.kind == STRUCT && found.size > smallest && found.count > 0;
            if fits && self.is_named(memory, found.name, name)? {
                return Ok(number);
            }
        }
        bail!("the kernel's BTF has no struct {name}")
    }

    /// The member called `name` of a structure.
    pub fn member(&mut self, memory: &mut impl Memory, number: u32, name: &str) -> Result<Member> {
        let own = self.get(memory, number)?;
        ensure!(
            matches!(own.kind, STRUCT | UNION),
            "type {number} of the kernel's BTF has no members"
        );
        for n in 0..own.count as usize {
            let at = own.rest + 12 * n;
            let (text, kind, bits) = (self.word(at), self.word(at + 4), self.word(at + 8));
            if self.is_named(memory, text, name)? {
                // With the flag the upper eight bits are the size of a bit-field.
                let bits = if own.flag { bits & 0xff_ffff } else { bits };
                return Ok(Member {
                    offset: u64::from(bits / 8),
                    kind,
                });
            }
        }
        bail!("the kernel's BTF has no {name} where it is looked for")
    }

    /// What a pointer or an array is of, or a type by another name: the structure at the end of it, and how many of them.
    pub fn target(&mut self, memory: &mut impl Memory, number: u32) -> Result<(u32, u32)> {
        let (mut number, mut count) = (number, 1);
        for _ in 0..16 {
            let own = self.get(memory, number)?;
            match own.kind {
                PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => number = own.size,
                ARRAY => {
                    number = self.word(own.rest);
                    count = self.word(own.rest + 8);
                }
                _ => return Ok((number, count)),
            }
        }
        bail!("the kernel's BTF has a type without an end")
    }

    /// How long a structure is.
    pub fn size(&mut self, memory: &mut impl Memory, number: u32) -> Result<u64> {
        Ok(self.get(memory, number)?.size.into())
    }

    fn get(&mut self, memory: &mut impl Memory, number: u32) -> Result<Type> {
        let found = self.find(memory, number)?;
        found.with_context(|| format!("the kernel's BTF has no type {number}"))
    }

    /// A type; none behind the last.
    fn find(&mut self, memory: &mut impl Memory, number: u32) -> Result<Option<Type>> {
        let index = usize::try_from(number)?;
        // Where type n begins is known once all before it have been looked at; number 0 is no type.
        while self.places.len() <= index {
            let at = match self.places.len() {
                1 => 0,
                known => match self.at(memory, self.places[known - 1])? {
                    Some(last) => last.rest + length(&last)?,
                    None => return Ok(None),
                },
            };
            if at >= self.types_length as usize {
                return Ok(None);
            }
            self.places.push(at);
        }
        match index {
            0 => Ok(None),
            _ => self.at(memory, self.places[index]),
        }
    }

    fn at(&mut self, memory: &mut impl Memory, place: usize) -> Result<Option<Type>> {
        if !self.reach(memory, place + 12)? {
            return Ok(None);
        }
        let (name, info, size) = (self.word(place), self.word(place + 4), self.word(place + 8));
        let own = Type {
            name,
            kind: info >> 24 & 0x1f,
            flag: info >> 31 != 0,
            count: info & 0xffff,
            size,
            rest: place + 12,
        };
        let end = own.rest + length(&own)?;
        ensure!(
            self.reach(memory, end)?,
            "the kernel's BTF ends within a type"
        );
        Ok(Some(own))
    }

    /// Reads the types up to `end`; whether there is so much.
    fn reach(&mut self, memory: &mut impl Memory, end: usize) -> Result<bool> {
        let all = self.types_length as usize;
        if end > all {
            return Ok(false);
        }
        while self.read.len() < end {
            let part = PART.min(all - self.read.len());
            let bytes = memory.bytes(self.types + self.read.len() as u64, part)?;
            self.read.extend(bytes);
        }
        Ok(true)
    }

    fn word(&self, at: usize) -> u32 {
        let found = self.read.get(at..).and_then(|rest| rest.first_chunk());
        found.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn is_named(&self, memory: &mut impl Memory, text: u32, name: &str) -> Result<bool> {
        let end = u64::from(text) + name.len() as u64 + 1;
        if end > u64::from(self.strings_length) {
            return Ok(false);
        }
        let bytes = memory.bytes(self.strings + u64::from(text), name.len() + 1)?;
        Ok(bytes.strip_suffix(&[0]) == Some(name.as_bytes()))
    }
}

/// How many bytes belong to a type behind its first three words.
fn length(own: &Type) -> Result<usize> {
    let count = own.count as usize;
    Ok(match own.kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
        ENUM | FUNC_PROTO => 8 * count,
        kind if kind <= LAST_KIND => 0,
        kind => bail!("the kernel's BTF has a type of the unknown kind {kind}"),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::tests::Pieces;

    /// Types and their names, made by hand.
    #[derive(Default)]
    pub struct Maker {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Maker {
        pub fn new() -> Self {
            Self {
                strings: vec![0],
                ..Self::default()
            }
        }

        fn name(&mut self, name: &str) -> u32 {
            let at = self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn put(&mut self, words: &[u32]) -> u32 {
            self.types
                .extend(words.iter().flat_map(|word| word.to_le_bytes()));
            self.count += 1;
            self.count
        }

        pub fn int(&mut self) -> u32 {
            let name = self.name("int");
            self.put(&[name, INT << 24, 4, 0x20])
        }

        pub fn pointer(&mut self, to: u32) -> u32 {
            self.put(&[0, PTR << 24, to])
        }

        pub fn array(&mut self, of: u32, count: u32) -> u32 {
            self.put(&[0, ARRAY << 24, 0, of, 1, count])
        }

        /// A structure with members at byte offsets.
        pub fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
            let name = self.name(name);
            let mut words = vec![name, STRUCT << 24 | members.len() as u32, size];
            for (name, kind, offset) in members {
                words.extend([self.name(name), *kind, 8 * offset]);
            }
            self.put(&words)
        }

        pub fn blob(&self) -> Vec<u8> {
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            let mut blob = 0x0001_eb9f_u32.to_le_bytes().to_vec();
            for word in [24, 0, types, types, strings] {
                blob.extend(u32::to_le_bytes(word));
            }
            blob.extend(&self.types);
            blob.extend(&self.strings);
            blob
        }
    }

    #[test]
    fn structures_are_found_by_name_and_their_members_followed() {
        let mut maker = Maker::new();
        let int = maker.int();
        maker.structure("module", 8, &[("small", int, 0)]);
        let inner = maker.structure("inner", 24, &[("base", int, 0), ("size", int, 16)]);
        let array = maker.array(inner, 7);
        let pointer = maker.pointer(inner);
        let own = maker.structure(
            "module",
            1024,
            &[
                ("name", int, 24),
                ("mem", array, 320),
                ("kallsyms", pointer, 700),
            ],
        );
        let mut memory = Pieces::default();
        memory.put(0x1000, &maker.blob());
        let mut btf = Btf::of(&mut memory, 0x1000).unwrap();
        let memory = &mut memory;
        assert_eq!(btf.structure(memory, "module", 100).unwrap(), own);
        let mem = btf.member(memory, own, "mem").unwrap();
        assert_eq!((mem.offset, mem.kind), (320, array));
        assert_eq!(btf.target(memory, mem.kind).unwrap(), (inner, 7));
        assert_eq!(btf.size(memory, inner).unwrap(), 24);
        let size = btf.member(memory, inner, "size").unwrap();
        assert_eq!(size.offset, 16);
        let kallsyms = btf.member(memory, own, "kallsyms").unwrap();
        assert_eq!(btf.target(memory, kallsyms.kind).unwrap(), (inner, 1));
        assert!(btf.member(memory, own, "nothing").is_err());
        assert!(btf.member(memory, int, "name").is_err());
        assert!(btf.structure(memory, "modul", 0).is_err());
        assert!(btf.size(memory, 99).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_an_error_and_ends() {
        let mut maker = Maker::new();
        let first = maker.pointer(1);
        let mut memory = Pieces::default();
        memory.put(0x1000, &maker.blob());
        let mut btf = Btf::of(&mut memory, 0x1000).unwrap();
        let error = btf.target(&mut memory, first).unwrap_err();
        assert!(error.to_string().contains("without an end"), "{error}");
        maker.put(&[0, 31 << 24, 0]);
        memory.put(0x1000, &maker.blob());
        let mut btf = Btf::of(&mut memory, 0x1000).unwrap();
        assert!(btf.structure(&mut memory, "module", 0).is_err());
        memory.put(0x1000, &[0; 64]);
        assert!(Btf::of(&mut memory, 0x1000).is_err());
        let mut long = maker.blob();
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        memory.put(0x1000, &long);
        assert!(Btf::of(&mut memory, 0x1000).is_err());
    }
}
