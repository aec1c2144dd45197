//! Network cards of a guest: which network each is on.

use serde::Deserialize;

/// A network that a guest can be on. There is none that two guests share: what one sends to another is the host's to carry.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Net(String);

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut words = text.split(',');
        let is_known = |word: &str| {
            word == "restrict=on"
                || word
                    .strip_prefix("hostfwd=")
                    .is_some_and(|it| !it.is_empty())
        };
        if words.next() == Some("user") && words.all(is_known) {
            return Ok(Self(text));
        }
        Err(format!(
            "`{text}` is no network of a guest's; there is `user`, and behind it, each with a comma, hostfwd=... and restrict=on"
        ))
    }
}

impl Net {
    /// What QEMU calls it, as the network `id`: its kind, and then the rest.
    pub fn netdev(&self, id: &str) -> String {
        match self.0.split_once(',') {
            Some((kind, rest)) => format!("{kind},id={id},{rest}"),
            None => format!("{},id={id}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Result<Net, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn a_network_is_qemus_own_with_ports_of_the_hosts() {
        assert_eq!(net("user").unwrap().netdev("net0"), "user,id=net0");
        let forwarded = "user,hostfwd=tcp:127.0.0.1:2222-:22,restrict=on";
        assert_eq!(
            net(forwarded).unwrap().netdev("net1"),
            "user,id=net1,hostfwd=tcp:127.0.0.1:2222-:22,restrict=on"
        );
    }

    #[test]
    fn what_would_run_programs_or_join_guests_is_no_network() {
        for text in [
            "",
            "tap",
            "socket,mcast=230.0.0.1:1234",
            "user,",
            "user,id=other",
            "user,hostfwd=",
            "user,guestfwd=tcp:10.0.2.100:1234-cmd:sh",
            "user,smb=/",
            "hostfwd=tcp::2222-:22",
        ] {
            let error = net(text).unwrap_err();
            assert!(
                error.starts_with(&format!(
                    "`{text}` is no network of a guest's; there is `user`"
                )),
                "{error}"
            );
        }
    }
}
