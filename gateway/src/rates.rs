//! How often a user or an address may ask: connections, registrations, passwords, commands, new conversations.
//!
//! A limit is a token bucket: a burst at once, then a rate. Whoever is over it is told when to come again, and nobody else
//! notices. Limits for addresses count an IPv6 network of 64 bits as one, since every household has that many addresses.

mod keyed;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::MonotonicClock;
use quipu_protocol::id::UserId;

use self::keyed::Keyed;
use crate::config::{self, RateLimit, Unit};
use crate::telemetry::{Kind, Metrics};

/// Addresses that are remembered by each limit. Beyond it, those that were quiet for longest are forgotten.
const ADDRESSES_MAX: usize = 65_536;
/// Users that are remembered by each limit: more than are connected at once on one gateway.
const USERS_MAX: usize = 262_144;
/// Pairs of a user and an address whose wrong passwords are remembered.
const GUESSES_MAX: usize = 65_536;
/// Shortest time that anybody is told to wait: a bucket that is asked for each single token is asked too often.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);

/// How often an address that connects too often is told so, after a whole handshake. Beyond it, it is refused at its first
/// packet without a word.
const TURN_AWAYS: RateLimit = RateLimit::Allow {
    count: NonZeroU32::new(10).expect("not 0"),
    per: Unit::Minute,
    burst: NonZeroU32::new(4).expect("not 0"),
};

/// Who asks from outside: an IPv4 address, or the 64 bits of an IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Every rate limit of a gateway. Each method that takes is counted where it refuses; an error is the time to wait.
#[derive(Debug)]
pub struct Rates {
    connections: Keyed<Network>,
    turn_aways: Keyed<Network>,
    registrations: Keyed<Network>,
    guesses: Keyed<(UserId, Network)>,
    commands: Keyed<UserId>,
    conversations: Keyed<UserId>,
    loopback_exempt: bool,
    metrics: Arc<Metrics>,
}

impl Rates {
    /// Takes the limits from the settings, and shows how many keys they remember.
    pub fn new(settings: &config::Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let clock = &MonotonicClock;
        let rates = Arc::new(Self {
            connections: Keyed::new(settings.connections_per_address, ADDRESSES_MAX, clock),
            turn_aways: Keyed::new(TURN_AWAYS, ADDRESSES_MAX, clock),
            registrations: Keyed::new(settings.registrations_per_address, ADDRESSES_MAX, clock),
            guesses: Keyed::new(settings.wrong_passwords, GUESSES_MAX, clock),
            commands: Keyed::new(settings.commands_per_user, USERS_MAX, clock),
            conversations: Keyed::new(settings.conversations_per_user, USERS_MAX, clock),
            loopback_exempt: settings.loopback_exempt,
            metrics: Arc::clone(&metrics),
        });
        // Weak, because the limits hold the metrics.
        let shown = Arc::downgrade(&rates);
        let keys = move || shown.upgrade().map_or(0, |rates| rates.remembered().0);
        let help = "Users and addresses that rate limits remember";
        metrics.show(Kind::Gauge, "rate_limit_keys", help, keys);
        let shown = Arc::downgrade(&rates);
        let dropped = move || shown.upgrade().map_or(0, |rates| rates.remembered().1);
        let help = "Users and addresses that rate limits forgot to make room for others";
        metrics.show(Kind::Counter, "rate_limit_keys_dropped", help, dropped);
        rates
    }

    /// A connection of an address that has proven itself by finishing a handshake.
    pub fn connection(&self, from: IpAddr) -> Result<(), Duration> {
        let taken = self.of_address(&self.connections, from);
        if taken.is_err() {
            // At the limit it makes no difference here: this one is told already.
            let _ = self.turn_aways.take(&Network::of(from));
        }
        self.counted(taken, |metrics| &metrics.rate_limited_connections)
    }

    /// Whether the address connects too often and was told so often enough. Changes nothing, so that nobody can use up the
    /// connections of an address that is not theirs.
    pub fn is_refused(&self, from: IpAddr) -> bool {
        let network = Network::of(from);
        !self.is_exempt(from)
            && self.connections.is_empty(&network)
            && self.turn_aways.is_empty(&network)
    }

    /// A registration.
    pub fn registration(&self, from: IpAddr) -> Result<(), Duration> {
        let taken = self.of_address(&self.registrations, from);
        self.counted(taken, |metrics| &metrics.rate_limited_registrations)
    }

    /// A password that is about to be checked. By user *and* address, so that nobody can lock somebody else out; loopback is
    /// not exempt from it.
    pub fn password(&self, user: UserId, from: IpAddr) -> Result<(), Duration> {
        let taken = self.guesses.take(&(user, Network::of(from)));
        self.counted(taken, |metrics| &metrics.rate_limited_passwords)
    }

    /// The password was right: its user has all guesses again.
    pub fn password_was_right(&self, user: UserId, from: IpAddr) {
        self.guesses.refill(&(user, Network::of(from)));
    }

    /// A command of a user, over all devices.
    pub fn command(&self, user: &UserId) -> Result<(), Duration> {
        let taken = self.commands.take(user);
        self.counted(taken, |metrics| &metrics.rate_limited_commands)
    }

    /// A conversation that does not exist yet and that a user wants to make.
    pub fn new_conversation(&self, user: &UserId) -> Result<(), Duration> {
        let taken = self.conversations.take(user);
        self.counted(taken, |metrics| &metrics.rate_limited_conversations)
    }

    fn of_address(&self, limit: &Keyed<Network>, from: IpAddr) -> Result<(), Duration> {
        if self.is_exempt(from) {
            return Ok(());
        }
        limit.take(&Network::of(from))
    }

    fn is_exempt(&self, from: IpAddr) -> bool {
        self.loopback_exempt && from.to_canonical().is_loopback()
    }

    fn counted(
        &self,
        taken: Result<(), Duration>,
        counter: fn(&Metrics) -> &prometheus_client::metrics::counter::Counter,
    ) -> Result<(), Duration> {
        taken.map_err(|wait| {
            counter(&self.metrics).inc();
            wait.max(RETRY_AFTER_MIN)
        })
    }

    /// Keys that all limits remember, and those that they have dropped.
    fn remembered(&self) -> (u64, u64) {
        let counts = [
            self.connections.counts(),
            self.turn_aways.counts(),
            self.registrations.counts(),
            self.guesses.counts(),
            self.commands.counts(),
            self.conversations.counts(),
        ];
        counts.iter().fold((0, 0), |(keys, dropped), count| {
            (keys + count.0, dropped + count.1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SettingValue as _;

    fn rates(loopback_exempt: bool) -> Arc<Rates> {
        let one = RateLimit::parse("1/h burst 1").expect("a rate");
        let settings = config::Limits {
            connections_per_address: one,
            wrong_passwords: one,
            loopback_exempt,
            ..config::Limits::default()
        };
        Rates::new(&settings, Arc::new(Metrics::new()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_is_its_ipv4() {
        let rates = rates(true);
        assert!(rates.connection(ip("2001:db8::1")).is_ok());
        assert!(rates.connection(ip("2001:db8::ffff:2")).is_err());
        assert!(rates.connection(ip("2001:db8:0:1::1")).is_ok());
        assert!(rates.connection(ip("192.0.2.1")).is_ok());
        assert!(rates.connection(ip("::ffff:192.0.2.1")).is_err());
        assert_eq!(rates.metrics.rate_limited_connections.get(), 2);
    }

    #[test]
    fn an_address_is_told_a_few_times_and_then_refused() {
        let (rates, busy) = (rates(true), ip("192.0.2.1"));
        assert!(rates.connection(busy).is_ok());
        let mut told = 0;
        while !rates.is_refused(busy) {
            assert!(rates.connection(busy).is_err());
            told += 1;
        }
        assert!(told >= 4, "{told}");
        assert!(!rates.is_refused(ip("192.0.2.2")));
    }

    #[test]
    fn loopback_is_exempt_from_the_limits_of_addresses_only() {
        for (exempt, refused) in [(true, false), (false, true)] {
            let rates = rates(exempt);
            for address in ["127.0.0.1", "::1"] {
                assert!(rates.connection(ip(address)).is_ok());
                assert_eq!(rates.connection(ip(address)).is_err(), refused);
            }
        }
        let (rates, alice) = (rates(true), UserId::new("alice").expect("a name"));
        assert!(rates.password(alice, ip("::1")).is_ok());
        assert!(rates.password(alice, ip("::1")).is_err());
        assert!(rates.password(alice, ip("192.0.2.1")).is_ok());
        rates.password_was_right(alice, ip("::1"));
        assert!(rates.password(alice, ip("::1")).is_ok());
    }

    #[test]
    fn nobody_is_told_to_come_back_at_once() {
        let limit = RateLimit::parse("100000/s burst 1").expect("a rate");
        let settings = config::Limits {
            commands_per_user: limit,
            ..config::Limits::default()
        };
        let rates = Rates::new(&settings, Arc::new(Metrics::new()));
        let alice = UserId::new("alice").expect("a name");
        let wait = loop {
            if let Err(wait) = rates.command(&alice) {
                break wait;
            }
        };
        assert_eq!(wait, RETRY_AFTER_MIN);
    }
}
