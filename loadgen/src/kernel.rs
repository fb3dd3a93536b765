//! What the kernel says of UDP sockets: how many datagrams it dropped because one was full, and whose it was.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;

/// What names a socket in `/proc/net/udp` and in `/proc/<pid>/fd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode(u64);

impl Inode {
    /// That of a socket of this process; `None` where `/proc` does not say.
    pub(crate) fn of(socket: &impl AsRawFd) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        Some(Self(std::fs::metadata(path).ok()?.ino()))
    }
}

/// Datagrams that the kernel has dropped since it started, because a socket's buffer was full: at every socket that there is and
/// was on this machine.
pub(crate) fn drops_of_machine() -> Option<u64> {
    let four = field(
        &std::fs::read_to_string("/proc/net/snmp").ok()?,
        "RcvbufErrors",
    )?;
    // Without IPv6 there is no such file.
    let six = std::fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    let six = six
        .lines()
        .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Some(four + six.unwrap_or(0))
}

/// Datagrams dropped so far at these sockets of this process, those that are closed left out.
pub(crate) fn drops_at(sockets: &BTreeSet<Inode>) -> u64 {
    drops_among("self", sockets)
}

/// Datagrams dropped so far at the sockets that process `pid` has open; `None`: it is gone, or not ours to look at.
pub(crate) fn drops_of_process(pid: u32) -> Option<u64> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let sockets = files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter_map(|target| {
            let number = target.to_str()?.strip_prefix("socket:[")?;
            number.strip_suffix(']')?.parse().ok().map(Inode)
        })
        .collect();
    // Its own view: it may live in another network namespace.
    Some(drops_among(&pid.to_string(), &sockets))
}

fn drops_among(process: &str, sockets: &BTreeSet<Inode>) -> u64 {
    ["udp", "udp6"]
        .into_iter()
        // Without IPv6 there is no second file.
        .filter_map(|file| std::fs::read_to_string(format!("/proc/{process}/net/{file}")).ok())
        .map(|table| {
            let known = rows(&table).filter(|(socket, _)| sockets.contains(socket));
            known.map(|(_, drops)| drops).sum::<u64>()
        })
        .sum()
}

/// Inode and drops of each socket of `/proc/net/udp`: the tenth and the last of its fields.
fn rows(table: &str) -> impl Iterator<Item = (Inode, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(9);
        let inode = fields.next()?.parse().ok()?;
        Some((Inode(inode), fields.last()?.parse().ok()?))
    })
}

/// A number of the `Udp:` lines of `/proc/net/snmp`: names in the first, numbers in the second.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let at = lines
        .next()?
        .split_whitespace()
        .position(|known| known == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let snmp = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors\nUdp: 7 8\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!(field(snmp, "RcvbufErrors"), Some(8));
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            11590: 0100007F:D945 00000000:0000 07 00000000:00000680 00:00000000 00000000     0        0 1580588 2 000000002b8c059e 98\n\
            short line\n";
        assert!(rows(table).eq([(Inode(1_580_588), 98)]));
    }

    /// A socket with the smallest buffer there is, into which so many datagrams were sent that nobody takes out.
    fn flooded(datagrams: usize) -> UdpSocket {
        let kind = (socket2::Domain::IPV4, socket2::Type::DGRAM);
        let full = socket2::Socket::new(kind.0, kind.1, None).unwrap();
        full.set_recv_buffer_size(1).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        full.bind(&any.into()).unwrap();
        let full = UdpSocket::from(full);
        let sender = UdpSocket::bind(any).unwrap();
        for _ in 0..datagrams {
            sender
                .send_to(&[0; 512], full.local_addr().unwrap())
                .unwrap();
        }
        full
    }

    #[test]
    fn a_full_socket_is_told_from_its_neighbours() {
        let (full, other) = (flooded(500), flooded(0));
        let of = |socket: &UdpSocket| BTreeSet::from([Inode::of(socket).unwrap()]);
        let drops = drops_at(&of(&full));
        // The buffer holds a few of them however small it was asked for.
        assert!((400..500).contains(&drops), "{drops}");
        assert_eq!(drops_at(&of(&other)), 0);
        assert!(drops_of_process(std::process::id()).unwrap() >= drops);
        assert!(drops_of_machine().unwrap() >= drops);
        let gone = of(&full);
        drop(full);
        assert_eq!(drops_at(&gone), 0);
    }
}
