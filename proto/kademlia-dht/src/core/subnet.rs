//! Groups addresses into subnets for the caps and into scopes for the anti-scan rule. Pure.
//!
//! One party gets ids for free but subnets at a price, so places (in a bucket, in a lookup's result, under a
//! key) are shared out by subnet. Loopback and private addresses are exempt: there every host of a LAN or of a
//! test would fall into one group, and an attacker from outside cannot be reached at such an address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The group that an address belongs to: a public /24 (IPv4) or /48 (IPv6), or just itself where exempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subnet {
    /// First three octets of a public IPv4 address.
    V4([u8; 3]),
    /// First three groups of a public IPv6 address: what one customer is usually given.
    V6([u16; 3]),
    /// A loopback, private or link-local address: a group of its own.
    Exempt(SocketAddr),
}

impl Subnet {
    /// The subnet of `addr`.
    pub fn of(addr: SocketAddr) -> Self {
        if Scope::of(addr.ip()) != Scope::Public {
            return Self::Exempt(addr);
        }
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
        }
    }
}

/// How far an address reaches. A peer may tell us only of addresses of its own scope or a wider one, so that
/// nobody outside makes us dial into our own machine or LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Reachable only from the same machine.
    Loopback,
    /// RFC 1918, link-local, RFC 6598 (carrier NAT), IPv6 unique-local.
    Private,
    /// Everything else.
    Public,
}

impl Scope {
    /// The scope of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_carrier_nat(ip) => Self::Private,
            IpAddr::V6(ip) if ip.is_loopback() => Self::Loopback,
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Self::Private,
            _ => Self::Public,
        }
    }
}

/// Whether an address told by `teller` may be dialled: a unicast address, a port that no well-known UDP
/// service (DNS, NTP, ...) listens on, and a scope that the teller itself is in.
pub fn may_dial(told: SocketAddr, teller: IpAddr) -> bool {
    let unicast = match told.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0)
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast()),
    };
    // 443 is where operators hide QUIC from strict firewalls; everything else below 1024 is somebody's service.
    let port = told.port() >= 1024 || told.port() == 443;
    unicast && port && Scope::of(told.ip()) >= Scope::of(teller)
}

fn is_carrier_nat(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && (64..128).contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_neighbours_share_a_group_and_exempt_ones_do_not() {
        assert_eq!(Subnet::of(addr("8.8.8.1:7401")), Subnet::of(addr("8.8.8.2:9")));
        assert_ne!(Subnet::of(addr("8.8.8.1:7401")), Subnet::of(addr("8.8.9.1:7401")));
        assert_ne!(Subnet::of(addr("127.0.0.1:1")), Subnet::of(addr("127.0.0.1:2")));
        assert_ne!(Subnet::of(addr("192.168.1.2:1")), Subnet::of(addr("192.168.1.3:1")));
        assert_eq!(Subnet::of(addr("[2a01:1:2:3::1]:1")), Subnet::of(addr("[2a01:1:2:4::1]:1")));
        assert_eq!(Subnet::of(addr("[::ffff:8.8.8.1]:1")), Subnet::of(addr("8.8.8.2:1")));
    }

    #[test]
    fn a_public_peer_cannot_send_us_into_our_own_network() {
        let public = "8.8.8.8".parse().unwrap();
        let lan = "192.168.1.7".parse().unwrap();
        let own = "127.0.0.1".parse().unwrap();
        assert!(!may_dial(addr("127.0.0.1:7401"), public));
        assert!(!may_dial(addr("192.168.1.1:7401"), public));
        assert!(!may_dial(addr("[::ffff:127.0.0.1]:7401"), public));
        assert!(!may_dial(addr("127.0.0.1:7401"), lan));
        assert!(may_dial(addr("192.168.1.1:7401"), lan));
        assert!(may_dial(addr("127.0.0.1:7401"), own));
        assert!(may_dial(addr("9.9.9.9:7401"), own));
        assert!(!may_dial(addr("9.9.9.9:53"), public));
        assert!(!may_dial(addr("0.0.0.0:7401"), own));
        assert!(!may_dial(addr("224.0.0.1:7401"), public));
        assert!(!may_dial(addr("255.255.255.255:7401"), public));
        assert!(!may_dial(addr("9.9.9.9:0"), public));
    }
}
