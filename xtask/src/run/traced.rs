//! The calls of guests as they come, for a person or a program.

use anyhow::Result;
use clap::ValueEnum;

use machine::calls::Call;
use machine::console::Line;

/// How calls are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line each, to read.
    Lines,
    /// A JSON object each.
    JsonLines,
}

/// What the hypervisor's command line has that it tells of calls.
pub const WORD: &str = "trace=calls";

/// Shows the call that `line` tells of, if it does. A guest's name is said if there are several.
pub fn show(line: &Line, format: Format, names: &[String]) -> Result<Option<String>> {
    let Some(record) = line.record().transpose()? else {
        return Ok(None);
    };
    let Some(call) = Call::of(&record).transpose()? else {
        return Ok(None);
    };
    let mut text = match format {
        Format::JsonLines => call.json().to_string(),
        Format::Lines => call.to_string(),
    };
    if format == Format::Lines && names.len() > 1 {
        let name = names.get(usize::from(call.vm)).map_or("?", String::as_str);
        text = format!("{name}: {text}");
    }
    if let (Format::Lines, Some(us)) = (format, line.time_us) {
        text = format!("[{:5}.{:06}] {text}", us / 1_000_000, us % 1_000_000);
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "[    1.500000 p1] @vm-call vm=1 vcpu=0 conduit=SMC function=0x84000002 x1=0x0 x2=0x0 x3=0x0 x4=0x0 x5=0x0 x0=none us=3";

    #[test]
    fn a_line_names_its_guest_where_there_are_several() {
        let line = Line::parse(CALL);
        let names = ["one".to_owned(), "two".to_owned()];
        let show = |format, names: &[String]| show(&line, format, names).unwrap().unwrap();
        assert_eq!(
            show(Format::Lines, &names),
            "[    1.500000] two: cpu 0: CPU_OFF() does not return"
        );
        assert_eq!(
            show(Format::Lines, &names[..1]),
            "[    1.500000] cpu 0: CPU_OFF() does not return"
        );
        assert!(show(Format::JsonLines, &names).contains("\"vm\":1"));
    }

    #[test]
    fn other_lines_are_no_calls() {
        for text in ["[    1.500000 p1] @vm-off vm=0", "[    1.500000 p1] hello"] {
            let shown = show(&Line::parse(text), Format::Lines, &[]).unwrap();
            assert_eq!(shown, None);
        }
    }
}
