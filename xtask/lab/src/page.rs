//! Pages for a browser, each one file that needs nothing else: no network, no script.
//!
//! A page is made of what a program reads, docs/report.md, and of nothing else. All text in it is escaped by `maud`.

mod list;
mod report;
mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use list::{Job, OF_JOB, Verdict, list};
pub use report::report;

const STYLE: &str = include_str!("page/style.css");

/// A whole page.
fn whole(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (printable(title)) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

/// Text without what no browser shows, such as the colours of a terminal, which guests write.
fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' | '\n' => c,
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Whether something is as it must be.
fn verdict(is_good: bool) -> Markup {
    match is_good {
        true => html! { span class="good" { "passed" } },
        false => html! { span class="bad" { "failed" } },
    }
}
