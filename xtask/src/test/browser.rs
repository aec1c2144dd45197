//! The page of `kdump --html`, opened by a browser of others: Debian's Chromium.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::tools::{self, Tool};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const NAME: &str = "page/in-a-browser";

const CHROMIUM: Tool = Tool {
    program: "chromium",
    package: "chromium",
};

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME].into_iter()
}

/// Runs it, if it is named: a browser is a large package.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !ledger.names(NAME) {
        return;
    }
    match tools::demand(&workshop.cache, &[CHROMIUM], &workshop.progress) {
        Ok(()) => ledger.check(NAME, look),
        Err(error) => ledger.skipped(NAME, &format!("{error:#}")),
    }
}

/// Parts that the page of a run with `--oracle` has, by their anchors.
const PARTS: [&str; 6] = ["about", "ladder", "cpus", "cpu-2", "pages", "console-1"];

/// Widths in CSS pixels: a telephone's and a desktop's.
const WIDTHS: [u32; 2] = [400, 1200];
const HEIGHT: u32 = 900;

/// The schemes, and the number that Blink knows each by.
const SCHEMES: [(&str, u32); 2] = [("dark", 0), ("light", 1)];

fn look() -> Result<String> {
    let folder = RunDir::create(None)?;
    let page = folder.file("page.html");
    let kdump = ["kdump", "--oracle", "--html"];
    own::succeed(own::xtask()?.args(kdump).arg(&page))?;
    let text = fs::read_to_string(&page).context("kdump has written no page")?;
    let mut remarks = Vec::new();
    for width in WIDTHS {
        let mut pictures = Vec::new();
        for (scheme, number) in SCHEMES {
            let frame = folder.file(&format!("{width}.html"));
            fs::write(&frame, framed(&text, width))?;
            let seen = dumped(&folder, &frame, width, number)?;
            check(&seen, width, scheme).with_context(|| format!("{width} pixels, {scheme}"))?;
            let picture = folder.file(&format!("{width}-{scheme}.png"));
            let option = format!("--screenshot={}", picture.display());
            chromium(&folder, &frame, width, number, &option)?;
            pictures.push(png(&picture, width)?);
        }
        ensure!(
            pictures[0] != pictures[1],
            "at {width} pixels the page looks the same, dark or light"
        );
        remarks.push(format!("{width} pixels"));
    }
    Ok(format!("{} bytes, {}", text.len(), remarks.join(", ")))
}

/// A page that shows `page` so many pixels wide, as the window of a browser may have a least width, and says what it finds in it.
fn framed(page: &str, width: u32) -> String {
    let source = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        r#"<!DOCTYPE html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style></head><body>
<iframe id="page" width="{width}" height="{HEIGHT}" srcdoc="{source}"></iframe><pre id="seen"></pre>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  for (const part of page.querySelectorAll("details")) part.open = true;
  const inside = part => {{ const box = part.getBoundingClientRect(); return box.right <= root.clientWidth + 1 && box.left >= -1; }};
  const out = [...page.querySelectorAll("main *")].filter(part => !inside(part));
  document.getElementById("seen").textContent = [
    "width=" + root.clientWidth, "scroll=" + root.scrollWidth, "out=" + out.map(part => part.outerHTML.slice(0, 60)).join(" "),
    "ground=" + getComputedStyle(page.body).backgroundColor,
    "ids=" + [...page.querySelectorAll("[id]")].map(part => part.id).join(" "),
  ].join("\n");
}});
</script></body></html>"#
    )
}

/// What the frame has found.
fn dumped(folder: &RunDir, frame: &Path, width: u32, scheme: u32) -> Result<String> {
    let dom = chromium(folder, frame, width, scheme, "--dump-dom")?;
    let seen = dom.split_once("<pre id=\"seen\">");
    let seen = seen.and_then(|(_, rest)| rest.split_once("</pre>"));
    let (seen, _) = seen.with_context(|| format!("the browser shows\n{dom}"))?;
    Ok(seen.to_owned())
}

fn check(seen: &str, width: u32, scheme: &str) -> Result<()> {
    let value = |name: &str| {
        let mut lines = seen.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.with_context(|| format!("the browser says no {name}: {seen}"))
    };
    ensure!(value("width")?.parse::<u32>()? <= width, "{seen}");
    ensure!(
        value("scroll")? == value("width")?,
        "the page is wider than its window: {seen}"
    );
    ensure!(
        value("out")?.is_empty(),
        "parts are wider than the page: {seen}"
    );
    let ids: Vec<&str> = value("ids")?.split(' ').collect();
    for part in PARTS {
        ensure!(ids.contains(&part), "the page has no {part}: {seen}");
    }
    let ground = match scheme {
        "dark" => "rgb(20, 22, 26)",
        _ => "rgb(255, 255, 255)",
    };
    ensure!(
        value("ground")? == ground,
        "the ground is not {ground}: {seen}"
    );
    Ok(())
}

/// A browser may take so long on a host that does much else.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the browser on a page, and answers what it printed.
fn chromium(folder: &RunDir, page: &Path, width: u32, scheme: u32, act: &str) -> Result<String> {
    let output = supervisor::command("timeout")
        .arg(LIMIT.as_secs().to_string())
        .arg(CHROMIUM.program)
        // It is root's in a container, and opens nothing but what is ours.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.file("browser").display()
        ))
        .arg(format!("--window-size={width},{HEIGHT}"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(act)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .context("cannot run chromium")?;
    if !output.status.success() {
        bail!(
            "chromium: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The picture at `path`, which is one and at least so wide.
fn png(path: &Path, width: u32) -> Result<Vec<u8>> {
    let picture = fs::read(path).context("chromium has made no picture")?;
    ensure!(
        picture.starts_with(b"\x89PNG\r\n\x1a\n"),
        "{} is no PNG",
        path.display()
    );
    let own = picture.get(16..20).and_then(|bytes| bytes.try_into().ok());
    let own = own
        .map(u32::from_be_bytes)
        .context("the PNG has no width")?;
    ensure!(
        own >= width,
        "the picture is {own} pixels wide, not {width}"
    );
    Ok(picture)
}
