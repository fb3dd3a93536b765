//! The sessions alive at a gateway: one of each device, thrown out and sent away with their users.

use quipu_core::shard::ShardId;
use quipu_protocol::error::CloseCode;
use quipu_protocol::id::{DeviceId, UserId};
use quipu_protocol::welcome::GoAway;

use crate::sabotage::Sabotage;
use crate::world::{LinkNo, World};

impl World {
    /// The session receives from now on; an older one of the same device ends. Which is older, the connections say: log-ins
    /// may overtake each other.
    pub(super) fn attach(&mut self, gateway: usize, user: UserId, device: DeviceId, link: LinkNo) {
        let attached = self.gateways[gateway].registry.entry(user).or_default();
        let older = attached.iter().position(|(other, _)| *other == device);
        match older {
            Some(at) => {
                let (_, other) = attached[at];
                attached[at].1 = link.max(other);
                let older = link.min(other);
                let replaced = (CloseCode::Replaced, "this device connected again");
                self.put(gateway, older, |mailbox| {
                    mailbox.close.get_or_insert(replaced);
                });
            }
            None => attached.push((device, link)),
        }
        self.attends(gateway, user);
        if self.gateways[gateway].revoked.contains(&(user, device)) {
            self.throw_out(gateway, link);
        }
    }

    /// A device has no access any more: its session ends, and one that is just about to begin.
    pub(crate) fn revoked(&mut self, gateway: usize, user: UserId, device: DeviceId) {
        if self.sabotage == Some(Sabotage::AdmitRevoked) {
            return;
        }
        self.gateways[gateway].revoked.insert((user, device));
        let attached = self.gateways[gateway].registry.get(&user);
        let theirs = attached.into_iter().flatten();
        let theirs = theirs.filter(|(of, _)| *of == device);
        let links: Vec<LinkNo> = theirs.map(|(_, link)| *link).collect();
        self.trace
            .say(|| format!("gateway {gateway} throws out {device} of {user}: {links:?}"));
        for link in links {
            self.throw_out(gateway, link);
        }
    }

    fn throw_out(&mut self, gateway: usize, link: LinkNo) {
        self.put(gateway, link, |mailbox| {
            let revoked = (CloseCode::Revoked, "thrown out");
            mailbox.close.get_or_insert(revoked);
        });
    }

    /// Ends the sessions of a shard's users.
    pub(crate) fn send_away(&mut self, gateway: usize, shard: ShardId, code: CloseCode) {
        let shards = self.store_shards();
        let theirs: Vec<LinkNo> = self.gateways[gateway]
            .registry
            .iter()
            .filter(|(user, _)| shards.of_user(user) == shard)
            .flat_map(|(_, attached)| attached.iter().map(|(_, link)| *link))
            .collect();
        for link in theirs {
            if code == CloseCode::Redirect {
                let owner = self.gateways[gateway].view.owners[usize::from(shard.0)];
                self.redirect(gateway, link, owner);
            } else {
                let reason = "another gateway was faster";
                self.put(gateway, link, |mailbox| {
                    mailbox.close.get_or_insert((code, reason));
                });
            }
        }
    }

    /// Says where the user's gateway is.
    pub(super) fn redirect(&mut self, gateway: usize, link: LinkNo, owner: usize) {
        let instant = self.instant();
        let deadline_ms = self.rng.below(200) as u32;
        if let Some(session) = self.session(gateway, link) {
            session.working = None;
            session.session.go_away(
                instant,
                GoAway {
                    code: CloseCode::Redirect,
                    reason: String::new(),
                    authority: owner.to_string(),
                    deadline_ms,
                    jitter_ms: 0,
                },
            );
        }
        self.settle(gateway, link);
    }
}
