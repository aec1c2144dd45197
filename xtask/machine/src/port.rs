//! The TCP port of the host that a debugger comes to.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

/// That nobody has this port of the host. Nobody listens on it meanwhile: a debugger that is early would get in, and out again.
///
/// # Errors
///
/// Names the port, and the option for another.
pub fn check(port: u16) -> Result<()> {
    let own = || {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    };
    ensure!(
        own() != Err(Errno::ADDRINUSE),
        "port {port} is in use; choose another with --gdb=PORT"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check(port).unwrap_err().to_string();
        let expected = format!("port {port} is in use; choose another with --gdb=PORT");
        assert_eq!(error, expected);
    }
}
