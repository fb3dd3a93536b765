//! Shards with their logs and one store. Instructions, each a record or a step of the shell:
//!
//! `shards N` · `at MS: ENTRY; ENTRY ...` (one record for each shard concerned) · `at MS: carry` (what was sent arrives) ·
//! `at MS: carry again` (the same once more, as after a crash) · `rows` (what changed) · `restart` (from rows alone)
//!
//! Entries: `alice/1 registers [secret N]` · `alice/2 joins [secret N]` · `alice/1 opens bob` · `alice/1 sends N to
//! alice+bob [replying N] [with file N]: TEXT` · `alice/1 has alice+bob delivered N read N [quietly 1]` · those of changes.rs
//!
//! A change has the client seq N after `alice/1 as N`, and none without it, as in a log of before changes had one.
//!
//! Of gateways: `keep EVENTS for MS` (to every shard) · `bob/1 attaches BOOT.NUMBER [at N]` · `bob/1 stalls BOOT.NUMBER at N since MS` · `bob/1 leaves BOOT.NUMBER
//! [at N]` · `bob/1 vanishes BOOT since MS` · `bob/1 is told through N` · `bob/1 is not told through N of alice+bob FIRST LAST:
//! WHY` · `bob/1 is told again after N`
//!
//! A group is called by one word: `alice/1 creates climbers [open] [from-start] [inviting bob carol]: TITLE` · `alice/1 titles
//! climbers: TEXT` · `alice/1 topics climbers: TEXT` · `alice/1 invites bob carol to climbers` · `bob/1 enters climbers` ·
//! `bob/1 leaves climbers` · `alice/1 removes bob from climbers` · `alice/1 makes bob admin of climbers`. Groups made after
//! `fan-out N` are pulled above N members.

use std::collections::BTreeMap;

use quipu_core::limits::FAN_OUT_MAX_DEFAULT;
use quipu_core::record::{
    CommandKind, Entry, EntryBody, Fact, GivenUp, Record, SessionId, Standing,
};
use quipu_core::retention::Retention;
use quipu_core::row::{
    Account, Answers, Conversation, DeadLetters, EntityKey, Inbox, InboxKind, IndexKey, Membership,
    News, OfflineRow, Presence, Roster, Row, Seat, Settings,
};
use quipu_core::shard::{Action, Dropped, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::{
    Change, Changed, Content, EventBody, Invitation, Message, NewGroup, Notice, Outcome, Receipt,
    Reply, ReplyTo, Role,
};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, RequestId, Seq,
    TimestampMs, UserId,
};

use super::changes;
use crate::support::{self, Store};

pub(crate) struct Cluster {
    shards: Vec<ShardState>,
    count: ShardCount,
    store: Store,
    /// Sent and not carried yet, by receiving shard.
    sent: BTreeMap<ShardId, Vec<Entry>>,
    /// What was carried last.
    carried: BTreeMap<ShardId, Vec<Entry>>,
    changed: Vec<Row>,
    requests: u64,
    fan_out_max: u32,
    names: BTreeMap<ConversationId, String>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new(1)
    }
}

impl crate::Machine for Cluster {
    fn run(&mut self, instruction: &str) -> Result<Vec<String>, String> {
        if let Some(count) = instruction.strip_prefix("shards ") {
            *self = Self::new(count.parse().map_err(|_| "not a number of shards")?);
            return Ok(Vec::new());
        }
        if let Some(most) = instruction.strip_prefix("fan-out ") {
            self.fan_out_max = most.parse().map_err(|_| "not a number of members")?;
            return Ok(Vec::new());
        }
        match instruction {
            "rows" => {
                self.drain();
                let rows = std::mem::take(&mut self.changed);
                return Ok(rows.iter().map(|row| self.row(row)).collect());
            }
            "restart" => {
                self.drain();
                self.shards = self
                    .count
                    .iter()
                    .map(|s| self.store.restore(s, self.count))
                    .collect();
                return Ok(Vec::new());
            }
            _ => {}
        }
        let (time, what) = instruction
            .strip_prefix("at ")
            .and_then(|rest| rest.split_once(": "))
            .ok_or("not an instruction")?;
        let time = TimestampMs(time.parse().map_err(|_| "not a time")?);
        let records = match what {
            "carry" => {
                self.carried = std::mem::take(&mut self.sent);
                self.carried.clone()
            }
            "carry again" => self.carried.clone(),
            entries => self.entries(entries)?,
        };
        let mut followed = Vec::new();
        for (shard, entries) in records {
            followed.extend(self.append(shard, time, entries));
        }
        Ok(followed)
    }
}

impl Cluster {
    fn new(count: u16) -> Self {
        let count = ShardCount(count);
        Self {
            shards: count
                .iter()
                .map(|shard| ShardState::new(shard, count))
                .collect(),
            count,
            store: Store::default(),
            sent: BTreeMap::new(),
            carried: BTreeMap::new(),
            changed: Vec::new(),
            requests: 0,
            fan_out_max: FAN_OUT_MAX_DEFAULT,
            names: BTreeMap::new(),
        }
    }

    fn drain(&mut self) {
        let mut rows = Vec::new();
        for shard in &mut self.shards {
            shard.drain_dirty(&mut rows);
        }
        self.store.commit(rows.iter().cloned());
        self.changed.extend(rows);
    }

    /// Appends one record and applies it.
    fn append(&mut self, shard: ShardId, time: TimestampMs, entries: Vec<Entry>) -> Vec<String> {
        let state = &mut self.shards[usize::from(shard.0)];
        let payload = Record::encode_entries(&entries);
        let record = Record::decode(state.applied().next(), time, &payload).unwrap();
        let mut effects = Effects::default();
        self.store.apply(state, &record, &mut effects);
        self.store.commit(effects.rows.iter().cloned());
        let mut followed = vec![format!("shard {} record {}", shard.0, record.position.0)];
        followed.extend(
            self.effects(&effects)
                .into_iter()
                .map(|line| format!("  {line}")),
        );
        for (to, entry) in effects.outgoing {
            self.sent.entry(to).or_default().push(entry);
        }
        followed
    }

    fn entries(&mut self, text: &str) -> Result<BTreeMap<ShardId, Vec<Entry>>, String> {
        let mut records: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for text in text.split("; ") {
            if let Some(words) = text.strip_prefix("expire ") {
                let (shard, entry) = changes::expire(self, words)?;
                records.entry(shard).or_default().push(entry);
                continue;
            }
            if let Some(words) = text.strip_prefix("keep ") {
                let (events, ms) = words.split_once(" for ").ok_or("keep N for MS")?;
                let body = EntryBody::Keep(Retention::new(parse(events)?, parse(ms)?));
                for shard in self.count.iter() {
                    let body = body.clone();
                    let entry = Entry { source: None, body };
                    records.entry(shard).or_default().push(entry);
                }
                continue;
            }
            let entry = self.entry(text)?;
            let shard = support::routed(&entry, self.count);
            records.entry(shard).or_default().push(entry);
        }
        Ok(records)
    }

    fn entry(&mut self, text: &str) -> Result<Entry, String> {
        let (head, message) = match text.split_once(": ") {
            Some((head, message)) => (head, message),
            None => (text, ""),
        };
        let words: Vec<&str> = head.split_whitespace().collect();
        let (who, rest) = words.split_first().ok_or("who?")?;
        let (name, number) = who.split_once('/').ok_or("a device is NAME/NUMBER")?;
        let (user, device) = (support::user(name), support::device(parse(number)?));
        let (client_seq, rest) = match rest {
            ["as", n, rest @ ..] => (Some(support::client_seq(parse(n)?)), rest),
            rest => (None, rest),
        };
        self.requests += 1;
        let request = RequestId(self.requests);
        Ok(match rest {
            ["registers"] => support::register(user, device, request.0, device.get() as u8),
            ["registers", "secret", n] => {
                support::register(user, device, request.0, parse(n)? as u8)
            }
            ["joins", rest @ ..] => {
                let secret = rest.last().map_or_else(|| Ok(device.get()), |n| parse(n))?;
                let device_row = support::new_device(secret as u8);
                let kind = CommandKind::AddDevice {
                    request,
                    device: device_row,
                };
                support::command(user, device, kind)
            }
            ["opens", peer] => {
                let (lower, higher) = (name.min(*peer), name.max(*peer));
                self.conversation(&format!("{lower}+{higher}"))?;
                support::open(user, device, support::user(peer), request.0)
            }
            ["sends", n, "to", conversation, with @ ..] => {
                let conversation = self.conversation(conversation)?;
                let content = changes::content(with, message)?;
                let number = parse(n)?;
                let kind = CommandKind::Send {
                    conversation,
                    client_seq: support::client_seq(number),
                    id: support::message_id(&user, device, number),
                    content,
                };
                support::command(user, device, kind)
            }
            ["has", conversation, positions @ ..] => {
                let conversation = self.conversation(conversation)?;
                let position = |what: &str| -> Result<Option<Seq>, String> {
                    let mut pairs = positions.chunks_exact(2);
                    let found = pairs.find(|pair| pair[0] == what);
                    found
                        .map(|pair| Ok(support::seq(parse(pair[1])?)))
                        .transpose()
                };
                let kind = CommandKind::Receipt {
                    conversation,
                    delivered: position("delivered")?,
                    read: position("read")?,
                    quiet: positions.contains(&"quietly"),
                };
                support::command(user, device, kind)
            }
            _ => {
                let change = match self.asked(rest, message)? {
                    Some(change) => Some(change),
                    None => changes::change(self, rest, message)?,
                };
                match change {
                    Some(change) => self.change((user, device), client_seq, change),
                    None => self
                        .fact((user, device), rest, message)?
                        .ok_or_else(|| format!("`{text}` is no entry"))?,
                }
            }
        })
    }

    /// What a member asks of a group, if these words say so.
    fn asked(&mut self, words: &[&str], message: &str) -> Result<Option<Change>, String> {
        Ok(Some(match words {
            ["creates", group, how @ ..] => {
                let (flags, invite) = how.split_at(
                    how.iter()
                        .position(|word| *word == "inviting")
                        .unwrap_or(how.len()),
                );
                let new = NewGroup {
                    conversation: self.conversation(group)?,
                    title: message.to_owned(),
                    topic: String::new(),
                    open: flags.contains(&"open"),
                    history_from_start: flags.contains(&"from-start"),
                    invite: invite
                        .iter()
                        .skip(1)
                        .map(|name| support::user(name))
                        .collect(),
                };
                Change::CreateGroup(new)
            }
            ["titles", group] => Change::SetGroup {
                conversation: self.conversation(group)?,
                title: Some(message.to_owned()),
                topic: None,
            },
            ["topics", group] => Change::SetGroup {
                conversation: self.conversation(group)?,
                title: None,
                topic: Some(message.to_owned()),
            },
            ["invites", users @ .., "to", group] => Change::Invite {
                conversation: self.conversation(group)?,
                users: users.iter().map(|name| support::user(name)).collect(),
            },
            ["enters", group] => Change::Join(self.conversation(group)?),
            ["leaves", group] => Change::Leave(self.conversation(group)?),
            ["removes", other, "from", group] => {
                Change::Remove(self.conversation(group)?, support::user(other))
            }
            ["makes", other, role, "of", group] => {
                let role = match *role {
                    "member" => Role::Member,
                    "admin" => Role::Admin,
                    "owner" => Role::Owner,
                    _ => return Err(format!("{role} is no role")),
                };
                let group = self.conversation(group)?;
                Change::SetRole(group, support::user(other), role)
            }
            _ => return Ok(None),
        }))
    }

    /// What a gateway tells, if these words say so.
    fn fact(
        &mut self,
        (user, device): (UserId, DeviceId),
        words: &[&str],
        message: &str,
    ) -> Result<Option<Entry>, String> {
        Ok(Some(match words {
            ["attaches", session, rest @ ..] => support::fact(
                user,
                Fact::Attached {
                    device,
                    session: session_id(session)?,
                    cursor: cursor(rest)?,
                },
            ),
            ["stalls", session, at, n, "since", since] => support::fact(
                user,
                Fact::Stalled {
                    device,
                    session: session_id(session)?,
                    cursor: cursor(&[at, n])?,
                    since: TimestampMs(parse(since)?),
                },
            ),
            ["leaves", session, rest @ ..] => support::fact(
                user,
                Fact::Detached {
                    device,
                    session: session_id(session)?,
                    cursor: cursor(rest)?,
                },
            ),
            ["vanishes", boot, "since", since] => support::fact(
                user,
                Fact::Vanished {
                    boot: parse(boot)?,
                    since: TimestampMs(parse(since)?),
                },
            ),
            ["is", "told", "through", n] => support::fact(
                user,
                Fact::Told {
                    through: Cursor(parse(n)?),
                    given_up: Vec::new(),
                },
            ),
            [
                "is",
                "not",
                "told",
                "through",
                n,
                "of",
                conversation,
                first,
                last,
            ] => {
                let given_up = GivenUp {
                    conversation: self.conversation(conversation)?,
                    first: support::seq(parse(first)?),
                    last: support::seq(parse(last)?),
                    count: 1,
                    after: Cursor(parse(n)? - 1),
                    tries: 10,
                    why: message.to_owned(),
                };
                let through = Cursor(parse(n)?);
                let given_up = vec![given_up];
                support::fact(user, Fact::Told { through, given_up })
            }
            ["is", "told", "again", "after", n] => {
                let after = Cursor(parse(n)?);
                support::fact(user, Fact::TellAgain { after })
            }
            _ => return Ok(None),
        }))
    }

    fn change(
        &self,
        (user, device): (UserId, DeviceId),
        client_seq: Option<ClientSeq>,
        change: Change,
    ) -> Entry {
        let kind = CommandKind::Change {
            request: RequestId(self.requests),
            client_seq,
            change: Box::new(change),
            fan_out_max: self.fan_out_max,
        };
        support::command(user, device, kind)
    }

    pub(super) fn conversation(&mut self, name: &str) -> Result<ConversationId, String> {
        let id = match name.split_once('+') {
            Some((a, b)) => ConversationId::direct(&support::user(a), &support::user(b)),
            None => support::group(name),
        };
        self.names.insert(id, name.to_owned());
        Ok(id)
    }

    pub(super) fn shard_of(&self, conversation: &ConversationId) -> ShardId {
        self.count.of_conversation(conversation)
    }

    // ---- what followed, as text

    fn effects(&self, effects: &Effects) -> Vec<String> {
        let mut lines = Vec::new();
        for (shard, entry) in &effects.outgoing {
            let source = entry.source.unwrap();
            lines.push(format!(
                "sends to shard {} [{}.{}.{}] {}",
                shard.0,
                source.shard.0,
                source.position.0,
                source.index,
                self.body(&entry.body)
            ));
        }
        lines.extend(effects.rows.iter().map(|row| self.row(row)));
        for action in &effects.actions {
            lines.push(match action {
                Action::Push { user, event } => {
                    format!(
                        "pushes {user} event {}: {}",
                        event.inbox_seq,
                        self.event(&event.body)
                    )
                }
                Action::Offline { user, since } => match since {
                    Some(since) => format!("notes that {user} misses messages since {}", since.0),
                    None => format!("notes that {user} misses nothing"),
                },
                Action::Notice { users, notice } => {
                    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
                    let what = match notice {
                        Notice::Message(message, _) => self.message(message),
                        Notice::Changed(changed, number) => {
                            format!("change {number}: {}", self.changed(changed))
                        }
                        Notice::Check => "check".to_owned(),
                    };
                    format!("notices {}: {what}", users.join(" "))
                }
                Action::Settings { user, settings } => {
                    let blocked: String =
                        settings.blocked.iter().map(|u| format!(" {u}")).collect();
                    format!("tells {user} {:?}, blocks{blocked}", settings.privacy)
                }
                Action::Revoked { user, device } => format!("throws out {user}/{}", device.get()),
                Action::Answer {
                    user,
                    device,
                    reply,
                } => {
                    format!("answers {}", self.answer(user, *device, reply))
                }
            });
        }
        let Dropped {
            repeats,
            misrouted,
            without_inbox,
        } = effects.dropped;
        if repeats + misrouted + without_inbox > 0 {
            lines.push(format!(
                "drops {repeats} repeated, {misrouted} misrouted, {without_inbox} without an inbox"
            ));
        }
        if lines.is_empty() {
            lines.push("nothing".to_owned());
        }
        lines
    }

    fn body(&self, body: &EntryBody) -> String {
        match body {
            EntryBody::Command(command) => format!("{command:?}"),
            EntryBody::Fact { user, fact } => format!("{user} {fact:?}"),
            EntryBody::Deliver { to, event } => {
                let to: Vec<&str> = to.iter().map(UserId::as_str).collect();
                format!("for {}: {}", to.join(" "), self.event(event))
            }
            EntryBody::Answer {
                user,
                device,
                reply,
            } => {
                format!("answer {}", self.answer(user, *device, reply))
            }
            EntryBody::Spread {
                group,
                pulled,
                changes,
                event,
            } => {
                let how = if *pulled { "notice" } else { "spread" };
                let number = match event {
                    EventBody::Changed(_) if *pulled => format!("change {changes}: "),
                    EventBody::Changed(_)
                    | EventBody::Message(_)
                    | EventBody::Receipt(_)
                    | EventBody::Invitation(_) => String::new(),
                };
                let event = self.event(event);
                format!("{how} in {}: {number}{event}", self.name(group))
            }
            EntryBody::Standing {
                conversation,
                user,
                standing,
            } => {
                let standing = match standing {
                    Standing::Out => "out".to_owned(),
                    Standing::Invited(invitation) => format!("invited by {}", invitation.by),
                    Standing::In { role, first } => {
                        let role = format!("{role:?}").to_lowercase();
                        match *first > Seq::FIRST {
                            true => format!("{role} who sees from {first} on"),
                            false => role,
                        }
                    }
                };
                format!("{user} in {}: {standing}", self.name(conversation))
            }
            EntryBody::Blocked {
                by,
                user,
                on,
                asked,
                ..
            } => {
                let asked = asked.map_or_else(String::new, |(device, request)| {
                    format!(", answer {by}/{} request {}", device.get(), request.0)
                });
                format!("{by} blocks {user}: {on}{asked}")
            }
            EntryBody::Expire { conversation, seqs } => {
                format!("expire {} {seqs:?}", self.name(conversation))
            }
            EntryBody::Keep(keep) => format!("keep {} events, {} ms", keep.events, keep.ms),
        }
    }

    fn event(&self, event: &EventBody) -> String {
        match event {
            EventBody::Message(message) => self.message(message),
            EventBody::Receipt(receipt) => self.receipt(receipt),
            EventBody::Changed(changed) => self.changed(changed),
            EventBody::Invitation(invitation) => self.invitation(invitation),
        }
    }

    fn invitation(&self, invitation: &Invitation) -> String {
        let name = self.name(&invitation.conversation);
        format!(
            "{} invites to {name}, {:?}",
            invitation.by, invitation.title
        )
    }

    fn message(&self, message: &Message) -> String {
        if let Content::Note(note) = &message.content {
            let name = self.name(&message.conversation);
            return format!(
                "{name} {} from {} at {}: {note:?}",
                message.seq, message.from, message.sent_at.0
            );
        }
        let says = changes::says(message);
        format!(
            "{} {} from {}/{} no. {} at {}: {says}",
            self.name(&message.conversation),
            message.seq,
            message.from,
            message.from_device.get(),
            message.client_seq,
            message.sent_at.0,
        )
    }

    fn changed(&self, changed: &Changed) -> String {
        let by = changed
            .by
            .map_or_else(|| "nobody".to_owned(), |by| by.to_string());
        format!(
            "{} {} version {} by {by} at {}: {}",
            self.name(&changed.conversation),
            changed.seq,
            changed.version,
            changed.at.0,
            changes::kind(&changed.kind),
        )
    }

    fn receipt(&self, receipt: &Receipt) -> String {
        format!(
            "{} {} has {}",
            self.name(&receipt.conversation),
            receipt.user,
            positions(receipt.delivered, receipt.read)
        )
    }

    fn answer(&self, user: &UserId, device: DeviceId, reply: &Reply) -> String {
        let to = match &reply.to {
            ReplyTo::Send {
                conversation,
                client_seq,
            } => {
                format!("no. {client_seq} to {}", self.name(conversation))
            }
            ReplyTo::Request(request) => format!("request {}", request.0),
        };
        let outcome = match &reply.outcome {
            Outcome::Accepted(seq) => format!("accepted as {seq}"),
            Outcome::Opened { conversation, head } => {
                format!(
                    "opened {}, head {}",
                    self.name(conversation),
                    or_none(*head)
                )
            }
            Outcome::Done => "done".to_owned(),
            Outcome::Rejected(rejection) => rejection.code.to_string(),
        };
        format!("{user}/{} {to}: {outcome}", device.get())
    }

    fn row(&self, row: &Row) -> String {
        match row {
            Row::History(row) => format!("row history: {}", self.message(&row.0)),
            Row::Inbox(row) => {
                let kind = match &row.kind {
                    InboxKind::Message { conversation, seq } => {
                        format!("{} {seq}", self.name(conversation))
                    }
                    InboxKind::Receipt(receipt) => self.receipt(receipt),
                    InboxKind::Changed(changed) => self.changed(changed),
                    InboxKind::Invitation(invitation) => self.invitation(invitation),
                };
                format!("row inbox of {} {}: {kind}", row.user, row.inbox_seq)
            }
            Row::Trimmed(user, inbox_seq) => format!("row inbox of {user} {inbox_seq}: none"),
            Row::Index(IndexKey::Listed(user, id), value) => {
                let on = if value.is_some() {
                    "listed"
                } else {
                    "not listed"
                };
                format!("row {} {on} for {user}", self.name(id))
            }
            Row::Index(IndexKey::Here(user), value) => {
                format!("row here {user}: {}", value.is_some())
            }
            Row::Index(IndexKey::Offline(user), None) => format!("row offline {user}: none"),
            Row::Index(IndexKey::Offline(user), Some(value)) => {
                let row = OfflineRow::decode(value).unwrap();
                format!(
                    "row offline {user}: after {}, since {}",
                    row.after, row.since.0
                )
            }
            Row::Index(key, value) => changes::index_row(key, value.as_deref(), |id| self.name(id)),
            Row::Entity(key, value) => self.entity(key, value),
            Row::Shard(shard, value) => {
                let state = ShardState::restore(*shard, self.count, Some(value)).unwrap();
                format!("row shard {}: applied {}", shard.0, state.applied().0)
            }
        }
    }

    fn entity(&self, key: &EntityKey, value: &[u8]) -> String {
        match key {
            EntityKey::Presence(user) => self.presence(user, value),
            EntityKey::Member(id, user) => {
                let row = Membership::decode(*user, value).unwrap();
                self.membership(id, &row)
            }
            EntityKey::Roster(id, shard) => {
                let row = Roster::decode(value).unwrap();
                let entries = row.entries.iter();
                let entries: Vec<String> = entries
                    .map(|entry| format!("{} {:?}", entry.user, entry.place))
                    .collect();
                let (name, entries) = (self.name(id), entries.join(", "));
                format!("row roster of {name} on shard {}: {entries}", shard.0)
            }
            EntityKey::News(id, shard) => self.news((id, *shard), value),
            EntityKey::DeadLetters(shard) => {
                let dead = DeadLetters::decode(value).unwrap();
                let letters = dead.letters.iter().map(|letter| {
                    let GivenUp {
                        conversation,
                        first,
                        last,
                        why,
                        ..
                    } = &letter.given_up;
                    let conversation = self.name(conversation);
                    format!("{} {conversation} {first} to {last}: {why}", letter.user)
                });
                let letters: Vec<String> = letters.collect();
                format!(
                    "row dead letters of shard {}: {}",
                    shard.0,
                    letters.join(", ")
                )
            }
            EntityKey::Answers(user, shard) => answers(user, *shard, value),
            EntityKey::Message(..) => {
                panic!("a message is written as a history row")
            }
            EntityKey::Account(user) => {
                let account = Account::decode(value).unwrap();
                let devices: Vec<String> = account
                    .devices
                    .iter()
                    .map(|d| {
                        format!(
                            "{} {:?} (secret {}, at {})",
                            d.id.get(),
                            d.label,
                            d.token_hash[0],
                            d.added_at.0
                        )
                    })
                    .collect();
                format!(
                    "row account {user}: at {}, devices {}",
                    account.created_at.0,
                    devices.join(", ")
                )
            }
            EntityKey::Inbox(user) => {
                let Inbox {
                    head,
                    incoming,
                    listed,
                    floor,
                    trimmed,
                    ages,
                } = Inbox::decode(value).unwrap();
                let number = |seq: Option<InboxSeq>| {
                    seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string())
                };
                let kept = match ages.is_empty() {
                    true => String::new(),
                    false => format!(", kept after {floor}, trimmed to {trimmed}"),
                };
                format!(
                    "row inbox {user}: head {}, incoming {}, {listed} listed{kept}",
                    number(head),
                    number(incoming)
                )
            }
            EntityKey::Settings(user) => {
                let settings = Settings::decode(value).unwrap();
                let blocked: Vec<&str> = settings.blocked.iter().map(UserId::as_str).collect();
                format!(
                    "row settings {user}: {:?}, blocks {}",
                    settings.privacy,
                    blocked.join(" ")
                )
            }
            EntityKey::Conversation(id) => {
                self.conversation_row(id, &Conversation::decode(value).unwrap(), value.len())
            }
        }
    }

    fn membership(&self, id: &ConversationId, row: &Membership) -> String {
        let seat = match row.seat {
            Seat::Out => "out".to_owned(),
            Seat::Invited(by) => format!("invited by {by}"),
            Seat::In(role) => format!("{role:?}").to_lowercase(),
        };
        let declined = row.declined.map(|seq| format!(" declined {seq}"));
        format!(
            "row member {} of {}: {seat}, joined {} left {}{}, {}",
            row.member.user,
            self.name(id),
            or_none(row.joined),
            or_none(row.left),
            declined.unwrap_or_default(),
            positions(row.member.delivered, row.member.read)
        )
    }

    fn news(&self, (id, shard): (&ConversationId, ShardId), value: &[u8]) -> String {
        let news = News::decode(value).unwrap();
        let (name, head) = (self.name(id), or_none(news.head));
        format!("row news of {name} on shard {}: head {head}", shard.0)
    }

    fn conversation_row(&self, id: &ConversationId, row: &Conversation, bytes: usize) -> String {
        if let Some(group) = &row.group {
            let changes = match group.changes {
                ChangeNumber::START => String::new(),
                number => format!(", changes {number}"),
            };
            return format!(
                "row group {}: head {}, {:?} {:?}, owner {}, members {}, invited {}, pulled {}{changes}",
                self.name(id),
                or_none(row.head),
                group.title,
                group.topic,
                group.owner,
                group.members(),
                group.invited,
                or_none(group.pulled)
            );
        }
        let members = row.members.iter().map(|m| {
            let shown = match m.shown_read == m.read {
                true => String::new(),
                false => format!(" shows {}", or_none(m.shown_read)),
            };
            let blocks = if m.blocks { " blocks" } else { "" };
            format!(
                "{} {}{shown}{blocks}",
                m.user,
                positions(m.delivered, m.read)
            )
        });
        let members: Vec<String> = members.collect();
        let keeps = match (row.keep_ms, row.unopened) {
            (_, true) => " (unopened)".to_owned(),
            (0, false) => String::new(),
            (keep_ms, false) => format!(" keeps {keep_ms} ms"),
        };
        format!(
            "row conversation {}{keeps}: head {}, {} ({bytes} bytes)",
            self.name(id),
            or_none(row.head),
            members.join(", ")
        )
    }

    fn presence(&self, user: &UserId, value: &[u8]) -> String {
        let presence = Presence::decode(value).unwrap();
        let devices: Vec<String> = presence
            .devices
            .iter()
            .map(|device| {
                let state = match (device.session, device.stalled) {
                    (None, _) => format!("last seen {}", device.seen_at.0),
                    (Some(session), false) => format!("here ({}.{})", session.boot, session.number),
                    (Some(session), true) => {
                        format!("stalled ({}.{})", session.boot, session.number)
                    }
                };
                format!(", {} {state} at {}", device.id.get(), device.cursor)
            })
            .collect();
        let waiting = presence.waiting.map_or_else(
            || "nothing waits".to_owned(),
            |waiting| format!("{} waits since {}", waiting.on, waiting.since.0),
        );
        format!(
            "row presence {user}: acked {} told {}, {waiting}{}",
            presence.acked,
            presence.told,
            devices.concat()
        )
    }

    fn name(&self, id: &ConversationId) -> String {
        self.names
            .get(id)
            .cloned()
            .unwrap_or_else(|| "a conversation".to_owned())
    }
}

fn answers(user: &UserId, shard: ShardId, value: &[u8]) -> String {
    let row = Answers::decode(value).unwrap();
    let devices = row.devices.iter();
    let devices: Vec<String> = devices
        .map(|one| format!("{} at {}", one.device.get(), one.last.0))
        .collect();
    format!(
        "row answers to {user} on shard {}: {} ({} bytes)",
        shard.0,
        devices.join(", "),
        value.len()
    )
}

/// BOOT.NUMBER
fn session_id(text: &str) -> Result<SessionId, String> {
    let (boot, number) = text.split_once('.').ok_or("a session is BOOT.NUMBER")?;
    Ok(SessionId {
        boot: parse(boot)?,
        number: parse(number)?,
    })
}

/// `at N`, or nothing
fn cursor(words: &[&str]) -> Result<Cursor, String> {
    match words {
        [] => Ok(Cursor::START),
        ["at", n] => Ok(Cursor(parse(n)?)),
        _ => Err("a cursor is `at N`".to_owned()),
    }
}

fn positions(delivered: Option<Seq>, read: Option<Seq>) -> String {
    format!("delivered {} read {}", or_none(delivered), or_none(read))
}

fn or_none(seq: Option<Seq>) -> String {
    seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string())
}

pub(super) fn parse(number: &str) -> Result<u64, String> {
    number.parse().map_err(|_| format!("{number} is no number"))
}
