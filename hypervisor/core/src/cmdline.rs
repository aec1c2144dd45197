//! Words of the hypervisor's own command line (/chosen bootargs of the machine's devicetree).

/// What is before and after the first `mark`; all of it and nothing without one.
#[inline(never)]
pub fn split(item: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let mut parts = item.splitn(2, |&byte| byte == mark);
    (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]))
}

/// A decimal number, if `digits` is one that fits.
#[inline(never)]
pub fn number(digits: &[u8]) -> Option<u32> {
    let digit = |sum: u32, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    };
    digits
        .iter()
        .try_fold(0, digit)
        .filter(|_| !digits.is_empty())
}

/// The name of a word that injects a fault into the hypervisor, which only its test image obeys.
pub fn injected_fault(word: &[u8]) -> Option<&'static str> {
    let names = ["break", "wedge", "probe"];
    let (name, _) = split(word, b'=');
    names.into_iter().find(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_split_at_its_first_mark() {
        assert_eq!(split(b"stop:50", b':'), (&b"stop"[..], &b"50"[..]));
        assert_eq!(split(b"1:a:b", b':'), (&b"1"[..], &b"a:b"[..]));
        assert_eq!(split(b"off", b':'), (&b"off"[..], &b""[..]));
        assert_eq!(split(b"", b':'), (&b""[..], &b""[..]));
    }

    #[test]
    fn words_that_inject_faults_are_known() {
        assert_eq!(injected_fault(b"break=panic@2"), Some("break"));
        assert_eq!(injected_fault(b"wedge=1:spin"), Some("wedge"));
        assert_eq!(injected_fault(b"probe=0:1"), Some("probe"));
        for other in [&b"stop=off"[..], b"breaks=panic", b"", b"watchdog=stop:5"] {
            assert_eq!(injected_fault(other), None);
        }
    }

    #[test]
    fn a_number_is_digits_that_fit_and_nothing_else() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"4294967295"), Some(u32::MAX));
        for wrong in [&b""[..], b"4294967296", b"-1", b"1 ", b"0x1", b"12a"] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }
}
