//! A network card goes on writing what it receives to the memory of a Linux that has crashed: no store of a CPU's, so that nobody is named,
//! but the pages of the dump are different.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::run_plan;
use debian::stock::Release;
use lab::kdump::{Extras, Lab, System};
use lab::plan::{Plan, Scenario};
use machine::guest::Options;
use machine::workshop::Workshop;

/// Run when it is named: it needs a kernel of Debian's, and ours and later ones have no driver for the card.
pub const NAME: &str = "linux/oracle/a-device-that-is-not-stopped";

/// An Ethernet frame to everybody, of a protocol for experiments (IEEE 802, 0x88b5), so that nobody answers.
const FRAME: [u8; 256] = {
    let mut frame = [0x5a; 256];
    let mut at = 0;
    while at < 6 {
        frame[at] = 0xff;
        at += 1;
    }
    // Administered locally.
    frame[6] = 0x02;
    frame[12] = 0x88;
    frame[13] = 0xb5;
    frame
};
/// A frame is sent so often.
const EVERY: Duration = Duration::from_millis(10);

/// Sends frames to the card until it is dropped.
struct Sender {
    _sends: Arc<()>,
}

impl Sender {
    /// To QEMU's port on this host.
    fn to(port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sends = Arc::new(());
        let is_wanted: Weak<()> = Arc::downgrade(&sends);
        thread::spawn(move || {
            while is_wanted.strong_count() > 0 {
                // Before QEMU is there nobody takes it.
                let _ = socket.send_to(&FRAME, (Ipv4Addr::LOCALHOST, port));
                thread::sleep(EVERY);
            }
        });
        Ok(Self { _sends: sends })
    }
}

/// Its pages are found, and no writer of them.
pub fn find(workshop: &Workshop) -> Result<String> {
    // Free now, and QEMU's soon.
    let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = ours.local_addr()?.port();
    drop(ours);
    let netdev = format!(
        "dgram,id=frames,local.type=inet,local.host=127.0.0.1,local.port={port},remote.type=inet,remote.host=127.0.0.1,remote.port=9"
    );
    let words = [
        "-netdev",
        &netdev,
        "-device",
        "virtio-net-device,netdev=frames",
    ];
    let options = Options {
        append: Some("lab.net=up".to_owned()),
        qemu_args: words.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let lab = Lab::prepare(workshop, &System::Stock(Release::Debian12))?;
    let lab = lab.giving(workshop, Extras { options, gdb: None })?;
    let plan = Plan {
        is_stock: true,
        oracle: true,
        ..Plan::new(Scenario::Panic, 2)
    };
    let sender = Sender::to(port)?;
    let report = run_plan(&lab, plan, None)?;
    drop(sender);
    let oracle = report.oracle.as_ref().with_context(|| report.text())?;
    let different = &oracle.report.different;
    ensure!(
        !report.passed
            && different.by_nobody > 0
            && different.by_nobody == different.pages
            && oracle.report.missing.pages == 0,
        "{}",
        report.text()
    );
    Ok(format!(
        "{} pages are different, by nobody that is known",
        different.pages
    ))
}
