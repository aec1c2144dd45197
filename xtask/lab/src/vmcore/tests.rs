use super::*;
use crate::registers::tests::sample;

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        let offset = usize::try_from(offset)?;
        let end = offset.checked_add(size).context("too large")?;
        Ok(self.get(offset..end).context("cut short")?.to_vec())
    }
}

const INFO: &str = "OSRELEASE=7.3.4\nKERNELOFFSET=473fdda00000\n";

fn note(name: &str, kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32 + 1).to_le_bytes());
    note.extend((content.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    note.extend(name.as_bytes());
    note.push(0);
    note.resize(note.len().next_multiple_of(4), 0);
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn prstatus(pid: u32, registers: &Registers) -> Vec<u8> {
    let mut content = vec![0; 112];
    content[32..36].copy_from_slice(&pid.to_le_bytes());
    for (_, value) in registers.named() {
        content.extend(value.to_le_bytes());
    }
    content.extend([0; 8]);
    note("CORE", 1, &content)
}

fn notes(cpus: u64) -> Vec<u8> {
    (0..cpus)
        .flat_map(|cpu| prstatus(100 + cpu as u32, &sample(cpu)))
        .collect()
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn compressed(cpus: u64) -> Vec<u8> {
    let notes = notes(cpus);
    let mut dump = vec![0; 8192];
    put(&mut dump, 0, b"KDUMP   ");
    put(&mut dump, 8, &6u32.to_le_bytes());
    put(&mut dump, 428, &4096u32.to_le_bytes());
    let info_at = 8192 + notes.len() as u64;
    put(&mut dump, 4096 + 32, &info_at.to_le_bytes());
    put(&mut dump, 4096 + 40, &(INFO.len() as u64).to_le_bytes());
    put(&mut dump, 4096 + 48, &8192u64.to_le_bytes());
    put(&mut dump, 4096 + 56, &(notes.len() as u64).to_le_bytes());
    dump.extend(notes);
    dump.extend(INFO.as_bytes());
    dump
}

fn elf(cpus: u64) -> Vec<u8> {
    let mut notes = notes(cpus);
    notes.extend(note("VMCOREINFO", 0, INFO.as_bytes()));
    let mut dump = vec![0; 64 + 56];
    put(&mut dump, 0, b"\x7fELF\x02\x01\x01");
    put(&mut dump, 32, &64u64.to_le_bytes());
    put(&mut dump, 54, &56u16.to_le_bytes());
    put(&mut dump, 56, &1u16.to_le_bytes());
    put(&mut dump, 64, &4u32.to_le_bytes());
    put(&mut dump, 64 + 8, &120u64.to_le_bytes());
    put(&mut dump, 64 + 32, &(notes.len() as u64).to_le_bytes());
    dump.extend(notes);
    dump
}

#[test]
fn both_formats_give_every_cpu_its_registers() {
    for dump in [compressed(4), elf(4)] {
        let vmcore = Vmcore::read(&dump).unwrap();
        assert_eq!(vmcore.release().unwrap(), "7.3.4");
        assert_eq!(vmcore.kaslr_offset().unwrap(), 0x473f_dda0_0000);
        assert_eq!(vmcore.notes.len(), 4);
        assert_eq!(vmcore.notes[3].pid, 103);
        assert_eq!(vmcore.notes[3].registers, sample(3));
    }
}

#[test]
fn a_dump_cut_short_is_an_error() {
    for dump in [compressed(4), elf(4)] {
        for size in [4, 63, 100, 300, 4100, dump.len() - 200] {
            let cut = dump[..size.min(dump.len())].to_vec();
            if cut.len() < dump.len() {
                assert!(Vmcore::read(&cut).is_err(), "{size} bytes");
            }
        }
    }
}

#[test]
fn an_incomplete_or_foreign_dump_is_refused() {
    let mut dump = compressed(1);
    put(&mut dump, 424, &8u32.to_le_bytes());
    let error = Vmcore::read(&dump).unwrap_err().to_string();
    assert!(error.contains("incomplete"), "{error}");
    let error = Vmcore::read(&b"makedumpfile\0\0\0\0".to_vec());
    assert!(error.unwrap_err().to_string().contains("neither"));
}

#[test]
fn notes_end_with_an_empty_one_or_with_the_last() {
    // What a kernel left room for, and another's leavings.
    let mut bytes = notes(2);
    bytes.extend([0; 12]);
    bytes.extend([0xff; 5]);
    let empty = || Vmcore {
        format: "",
        notes: Vec::new(),
        info: Vmcoreinfo::of_text(&[], &[]),
    };
    let mut vmcore = empty();
    vmcore.add_notes(&bytes).unwrap();
    assert_eq!(vmcore.notes.len(), 2);
    // Without the padding of the last one.
    let mut bytes = notes(1);
    bytes.extend(note("VMCOREINFO", 0, b"A=1\n\n"));
    bytes.truncate(bytes.len() - 3);
    let mut vmcore = empty();
    vmcore.add_notes(&bytes).unwrap();
    assert_eq!(vmcore.info.word("A").unwrap(), "1");
}

#[test]
fn program_headers_of_another_size_are_refused() {
    let mut dump = elf(1);
    put(&mut dump, 54, &32u16.to_le_bytes());
    let error = Vmcore::read(&dump).unwrap_err().to_string();
    assert!(error.contains("program headers"), "{error}");
}

#[test]
fn a_missing_kernel_offset_is_named() {
    let mut dump = compressed(1);
    let size = dump.len();
    dump[size - INFO.len()..].fill(b'\n');
    let vmcore = Vmcore::read(&dump).unwrap();
    let error = vmcore.kaslr_offset().unwrap_err().to_string();
    assert!(error.contains("KERNELOFFSET"), "{error}");
}

fn disk(name: &str, size: &str, content: &[u8]) -> File {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("xtask-disk-{}-{number}", std::process::id()));
    let mut bytes = vec![0; 512];
    put(&mut bytes, 0, name.as_bytes());
    put(&mut bytes, 124, size.as_bytes());
    put(&mut bytes, 257, b"ustar");
    bytes.extend(content);
    std::fs::write(&path, &bytes).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

#[test]
fn vmcore_comes_off_the_disk_whole_or_not_at_all() {
    let mut vmcore = disk("", "", b"");
    vmcore.set_len(0).unwrap();
    vmcore.seek(SeekFrom::Start(0)).unwrap();
    let mut whole = disk("vmcore", "00000000005", b"hello and padding");
    assert_eq!(extract(&mut whole, &mut vmcore).unwrap(), 5);
    assert_eq!(ReadAt::read_at(&vmcore, 0, 5).unwrap(), b"hello");
    let mut short = disk("vmcore", "00000007777", b"hello");
    let error = extract(&mut short, &mut vmcore).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
    let mut other = disk("passwd", "00000000005", b"hello");
    assert!(extract(&mut other, &mut vmcore).is_err());
}

#[test]
fn sizes_beyond_octal_are_read() {
    assert_eq!(tar_size(b"00000000017\0"), Some(15));
    assert_eq!(tar_size(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(2 << 32));
    assert_eq!(tar_size(b"what is this"), None);
}
