//! Request streams: what a device asks beside its inbox, what the gateway's store answers, and what the device makes of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use quipu_core::row::{Conversation, EntityKey, IndexKey, IndexRange, Membership, News, Seat};
use quipu_core::shard::ShardId;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, TimestampMs, UserId};
use quipu_protocol::query::{ChangedMessage, Changes, PresenceEntry};
use quipu_protocol::session::Positions;

use crate::plan::{MS, SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{AtDevice, AtGateway, LinkNo, World};

/// Longest pause before a history is asked again that did not reach what is known of it.
const AGAIN_MAX: Us = 2 * SECOND;
/// Times that a group is asked again that says that the user is not in it, as the SDK does.
const REFUSALS_MAX: u32 = 8;

/// Pause before a gateway looks again whether a conversation has come so far as its reader was told.
const BEHIND_PAUSE: Us = 20 * MS;

/// One question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// A page of the user's conversations behind this entry.
    List(Option<(TimestampMs, ConversationId)>),
    /// The entry of one conversation.
    Entry(ConversationId),
    /// The history from a seq on, page by page.
    Page(ConversationId, u64),
    /// One page of history, from a seq on.
    Around(ConversationId, u64),
    /// What was changed in a pulled group after a number.
    Changes(ConversationId, ChangeNumber),
    /// Who of all people is here, now and from now on.
    Presence,
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Answer {
    List {
        entries: Vec<Listed>,
        more: bool,
    },
    Entry(Box<Listed>),
    Page {
        conversation: ConversationId,
        messages: Vec<Message>,
        more: bool,
        /// Of the page by page kind: where this one begins, and the head that it should come to.
        reach: Option<(u64, Option<Seq>)>,
        /// The last change before it was read.
        changes: ChangeNumber,
    },
    /// Says behind which number, too.
    Changes(ConversationId, ChangeNumber, Changes),
    /// Says to which question, too.
    Refused(Question, RejectCode),
    Presence(Vec<PresenceEntry>),
}

/// One entry of the list.
#[derive(Debug)]
pub(crate) struct Listed {
    conversation: ConversationId,
    activity: TimestampMs,
    /// Of a group: whether the user is in it, and whether it is pulled.
    group: Option<(bool, bool)>,
    head: Option<Seq>,
    changes: ChangeNumber,
    /// How far the user is known to have come in it, if it is a direct one.
    own: Positions,
}

/// What a member may see of a conversation.
#[derive(Debug, Clone, Copy)]
struct Seen {
    first: u64,
    /// The last message that is in the history.
    head: Option<Seq>,
    /// The last one that devices were told of.
    told: Option<Seq>,
    /// The last change of a pulled group.
    changes: ChangeNumber,
}

/// A history that did not reach what is known of it.
#[derive(Debug, Default)]
pub(crate) struct Again {
    tries: u32,
    /// From where on it is asked again after a pause; `None`: it is being asked.
    first: Option<u64>,
}

/// The conversation that an index row of a user's list names.
fn listed_in(key: IndexKey) -> Option<ConversationId> {
    let IndexKey::Listed(_, conversation) = key else {
        return None;
    };
    Some(conversation)
}

/// The last change of a conversation, if it is a pulled group.
fn last_change(row: &Conversation) -> ChangeNumber {
    let group = row.group.as_deref();
    group.map_or(ChangeNumber::START, |group| group.changes)
}

/// Puts a question behind the others, unless it will be answered with one of them.
pub(crate) fn queue(questions: &mut VecDeque<Question>, question: Question) {
    let covers = |earlier: &Question| match (earlier, &question) {
        (Question::List(None), Question::List(None)) => true,
        (Question::Page(of, from), Question::Page(conversation, first)) => {
            of == conversation && from <= first
        }
        (Question::Presence, Question::Presence) => true,
        (Question::Changes(of, _), Question::Changes(conversation, _))
        | (Question::Entry(of), Question::Entry(conversation)) => of == conversation,
        (
            Question::List(_)
            | Question::Entry(_)
            | Question::Page(..)
            | Question::Around(..)
            | Question::Changes(..)
            | Question::Presence,
            _,
        ) => false,
    };
    if !questions.iter().any(covers) {
        questions.push_back(question);
    }
}

impl World {
    /// The store is read, and what was found goes back.
    pub(crate) fn take_question(&mut self, gateway: usize, link: LinkNo, question: Question) {
        let session = self.gateways[gateway].sessions.get(&link);
        let Some(user) = session.and_then(|session| session.user()) else {
            return;
        };
        if matches!(question, Question::Presence) {
            return self.watch_all(gateway, link);
        }
        if self.is_behind(&user, question) {
            let what = AtGateway::Question(link, question);
            return self.tell_gateway(gateway, BEHIND_PAUSE, what);
        }
        let answer = self.answer_to(&user, question);
        self.carry_answer(link, answer);
    }

    /// Whether a conversation does not show yet what the user's shard was told of it.
    fn is_behind(&self, user: &UserId, question: Question) -> bool {
        if matches!(
            self.sabotage,
            Some(Sabotage::ReadBehind | Sabotage::IgnoreNews)
        ) {
            return false;
        }
        let (shards, index) = (self.store_shards(), IndexRange::Listed(*user, None));
        let conversations = match question {
            Question::Presence => Vec::new(),
            Question::Entry(conversation)
            | Question::Page(conversation, _)
            | Question::Around(conversation, _)
            | Question::Changes(conversation, _) => vec![conversation],
            Question::List(_) => {
                let listed = self.store.index(&index).into_iter();
                listed.filter_map(listed_in).collect()
            }
        };
        let from: BTreeSet<ShardId> = conversations
            .iter()
            .map(|conversation| shards.of_conversation(conversation))
            .collect();
        let told = self.store.told(shards.of_user(user));
        told.iter()
            .any(|(shard, position)| from.contains(shard) && self.store.applied(*shard) < *position)
    }

    /// What a user gets of the store.
    pub(crate) fn answer_to(&self, user: &UserId, question: Question) -> Answer {
        match question {
            // Answered by the board: see `watch_all`.
            Question::Presence => Answer::Presence(Vec::new()),
            Question::List(after) => self.list(user, after),
            Question::Entry(conversation) => {
                let seen = self.first_visible(user, &conversation);
                match seen.map(|_| self.entry(user, conversation)) {
                    Ok(Some(entry)) => Answer::Entry(Box::new(entry)),
                    Ok(None) => Answer::Refused(question, RejectCode::UnknownConversation),
                    Err(code) => Answer::Refused(question, code),
                }
            }
            Question::Changes(conversation, after) => {
                match self.first_visible(user, &conversation) {
                    Ok(seen) => {
                        let page = self.changes_after(conversation, after, seen);
                        Answer::Changes(conversation, after, page)
                    }
                    Err(code) => Answer::Refused(question, code),
                }
            }
            Question::Page(conversation, first) | Question::Around(conversation, first) => {
                match self.first_visible(user, &conversation) {
                    Ok(Seen {
                        first: visible,
                        head,
                        told,
                        changes,
                    }) => {
                        let (asked, first) = (first, first.max(visible));
                        let limit = self.plan.page_messages;
                        let rows = self.store.history(conversation, first);
                        let there = rows.take_while(|row| Some(row.0.seq) <= head);
                        let mut messages: Vec<Message> = there
                            .take(limit + 1)
                            .map(|row| self.readable(row.0))
                            .collect();
                        let by_pages = matches!(question, Question::Page(..));
                        let more = messages.len() > limit && by_pages;
                        messages.truncate(limit);
                        Answer::Page {
                            conversation,
                            messages,
                            more,
                            reach: by_pages.then_some((asked, told)),
                            changes,
                        }
                    }
                    Err(code) => Answer::Refused(question, code),
                }
            }
        }
    }

    /// A message as a reader may have it now.
    pub(crate) fn readable(&self, mut message: Message) -> Message {
        if self.sabotage != Some(Sabotage::NeverExpire) {
            message.hide_expired(self.wall_clock());
        }
        message
    }

    fn list(&self, user: &UserId, after: Option<(TimestampMs, ConversationId)>) -> Answer {
        let place = |activity: TimestampMs, id| Reverse((activity.0, id));
        let listed = self.store.index(&IndexRange::Listed(*user, None));
        let ids = listed.into_iter().filter_map(listed_in);
        let mut entries: Vec<Listed> = ids
            .filter_map(|conversation| self.entry(user, conversation))
            .filter(|entry| {
                let behind = |(activity, id)| {
                    place(entry.activity, entry.conversation) > place(activity, id)
                };
                after.is_none_or(behind)
            })
            .collect();
        entries.sort_unstable_by_key(|entry| place(entry.activity, entry.conversation));
        let more = entries.len() > self.plan.page_messages;
        entries.truncate(self.plan.page_messages);
        Answer::List { entries, more }
    }

    fn entry(&self, user: &UserId, conversation: ConversationId) -> Option<Listed> {
        let row = self.conversation(&conversation)?;
        let group = row.group.as_deref().map(|group| {
            let is_in = self.first_visible(user, &conversation).is_ok();
            (is_in, group.pulled.is_some())
        });
        let own = row.member(user).map(|member| Positions {
            delivered: member.delivered,
            read: member.read,
        });
        Some(Listed {
            own: own.unwrap_or_default(),
            conversation,
            activity: row.activity,
            group,
            head: self.told_head(user, &conversation, &row),
            changes: last_change(&row),
        })
    }

    fn conversation(&self, id: &ConversationId) -> Option<Conversation> {
        Conversation::decode(self.store.entity(EntityKey::Conversation(*id))?).ok()
    }

    /// The head for one of the members: of a pulled group what the user's shard was told of, if that is more.
    fn told_head(&self, user: &UserId, id: &ConversationId, row: &Conversation) -> Option<Seq> {
        let group = row.group.as_deref();
        let is_pulled = group.is_some_and(|group| group.pulled.is_some());
        if !is_pulled || self.sabotage == Some(Sabotage::IgnoreNews) {
            return row.head;
        }
        let key = EntityKey::News(*id, self.store_shards().of_user(user));
        let news = self.store.entity(key).map(|row| News::decode(row));
        row.head
            .max(news.and_then(Result::ok).unwrap_or_default().head)
    }

    /// What a member may see; to anybody else there is no such conversation.
    fn first_visible(&self, user: &UserId, id: &ConversationId) -> Result<Seen, RejectCode> {
        let unknown = RejectCode::UnknownConversation;
        let row = self.conversation(id).ok_or(unknown)?;
        let Some(group) = row.group.as_deref() else {
            let member = row.member(user).filter(|_| !row.unopened);
            let all = Seen {
                first: 1,
                head: row.head,
                told: row.head,
                changes: ChangeNumber::START,
            };
            return member.map(|_| all).ok_or(unknown);
        };
        let told = self.told_head(user, id, &row);
        let changes = last_change(&row);
        if self.sabotage == Some(Sabotage::OpenHistory) {
            return Ok(Seen {
                first: 1,
                head: row.head,
                told,
                changes,
            });
        }
        let member = self.store.entity(EntityKey::Member(*id, *user));
        let member = member.and_then(|member| Membership::decode(*user, member).ok());
        match member {
            Some(member) if matches!(member.seat, Seat::In(_)) => Ok(Seen {
                first: member.first(group).get(),
                head: row.head,
                told,
                changes,
            }),
            Some(_) => Err(RejectCode::NotAMember),
            None => Err(unknown),
        }
    }

    /// Asks the next question, one at a time.
    pub(crate) fn ask_next(&mut self, device: usize) {
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        if !link.welcomed || link.is_asking {
            return;
        }
        while let Some(mut question) = link.questions.pop_front() {
            if let Question::Changes(conversation, after) = &mut question {
                let mark = it.disk.mark(*conversation);
                if !mark.is_behind() {
                    continue;
                }
                *after = mark.has();
            }
            link.is_asking = true;
            link.forgotten = it.disk.forgotten();
            let number = link.number;
            return self.carry_question(number, question);
        }
    }

    /// Asks about something, once the questions before it are answered.
    pub(crate) fn wonder(&mut self, device: usize, question: Question) {
        if let Some(link) = &mut self.devices[device].link {
            queue(&mut link.questions, question);
            self.ask_next(device);
        }
    }

    /// A device has its answer.
    pub(crate) fn take_answer(&mut self, device: usize, number: LinkNo, answer: Answer) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        if link.number != number {
            return;
        }
        link.is_asking = false;
        match answer {
            Answer::List { entries, more } => {
                self.trace
                    .say(|| format!("device {device} has listed {entries:?}, more {more}"));
                let last = entries.last();
                let last = last.map(|entry| (entry.activity, entry.conversation));
                let is_due = self.devices[device].disk.list_due();
                for entry in entries {
                    self.keep_entry(device, &entry, is_due);
                }
                if more {
                    self.wonder(device, Question::List(last));
                } else {
                    self.devices[device].disk.list_is_taken();
                }
            }
            Answer::Entry(entry) => self.keep_entry(device, &entry, true),
            Answer::Page {
                conversation,
                messages,
                more,
                reach,
                changes,
            } => {
                if let (Some((asked, _)), Some(found)) = (reach, messages.first()) {
                    let disk = &mut self.devices[device].disk;
                    disk.begins(conversation, (asked, found.seq.get()));
                }
                let again = self.keep_page(device, &messages, changes);
                self.wonder_about_changes(device, conversation);
                let last = messages.last().map(|last| last.seq.get());
                self.trace.say(|| {
                    format!(
                        "device {device} reads {conversation} to {last:?}, more {more}, {reach:?}"
                    )
                });
                if let Some(again) = again {
                    self.ask_again_later(device, conversation, again.get());
                } else if let (Some(last), true) = (last, more) {
                    self.wonder(device, Question::Page(conversation, last + 1));
                } else if let Some((first, head)) = reach {
                    let floor = self.devices[device].disk.first_missing(conversation);
                    let next = last.map_or_else(|| first.max(floor), |last| last + 1);
                    self.reached(device, conversation, next, head);
                }
            }
            Answer::Refused(question, code) => {
                self.trace
                    .say(|| format!("device {device} is answered {code}"));
                // Not a member any more, which the inbox says too; or not yet, as the group's shard is behind the user's.
                if let Question::Page(conversation, first) = question {
                    let link = self.devices[device].link.as_ref();
                    let again = link.and_then(|link| link.again.get(&conversation));
                    let tries = again.map_or(0, |again| again.tries);
                    let has_left = self.devices[device].disk.has_left(&conversation);
                    match !has_left && tries < REFUSALS_MAX {
                        true => self.ask_again_later(device, conversation, first),
                        false => self.has_all(device, conversation),
                    }
                }
            }
            Answer::Changes(conversation, after, page) => {
                self.take_changes(device, conversation, (after, &page));
            }
            Answer::Presence(entries) => {
                self.take_presence(device, entries);
            }
        }
        self.ask_next(device);
    }

    /// Keeps an entry of the list; `directs`: also of a direct conversation.
    fn keep_entry(&mut self, device: usize, entry: &Listed, directs: bool) {
        let disk = &mut self.devices[device].disk;
        let pulled = match entry.group {
            Some((true, pulled)) => pulled,
            None if directs => false,
            Some((false, _)) | None => return,
        };
        let own = (entry.head, entry.own);
        let from = disk.listed(entry.conversation, pulled, own);
        disk.hear(entry.conversation, entry.changes);
        if let Some(first) = from {
            self.wonder(device, Question::Page(entry.conversation, first));
        }
        self.wonder_about_changes(device, entry.conversation);
    }

    /// Asks for the changes of a group, if some are missing in what the device has.
    pub(crate) fn wonder_about_changes(&mut self, device: usize, conversation: ConversationId) {
        let mark = self.devices[device].disk.mark(conversation);
        if mark.is_behind() {
            self.wonder(device, Question::Changes(conversation, mark.has()));
        }
    }

    fn take_changes(
        &mut self,
        device: usize,
        conversation: ConversationId,
        (after, page): (ChangeNumber, &Changes),
    ) {
        self.trace.say(|| {
            format!(
                "device {device} has what was changed in {conversation} after {after}: {page:?}"
            )
        });
        let disk = &mut self.devices[device].disk;
        disk.take_changes(&self.names, conversation, (after, page));
        if page.too_old {
            self.wonder(device, Question::Page(conversation, 1));
        }
        if page.through > after {
            self.wonder_about_changes(device, conversation);
        } else if self.devices[device].disk.mark(conversation).is_behind() {
            let first = self.devices[device].disk.first_missing(conversation);
            self.ask_again_later(device, conversation, first);
        }
    }

    /// What a gateway tells of the changes of a group: each message once, as it is now.
    fn changes_after(
        &self,
        conversation: ConversationId,
        after: ChangeNumber,
        seen: Seen,
    ) -> Changes {
        let rows = self.store.numbered(conversation, after);
        let forgotten = seen.changes.0.saturating_sub(self.plan.changes_kept);
        let mut page = Changes {
            messages: Vec::new(),
            through: seen.changes,
            more: false,
            too_old: true,
        };
        if after > seen.changes || after.0 < forgotten {
            return page;
        }
        (page.through, page.too_old) = (after, false);
        for (number, change) in rows.into_iter().take(self.plan.page_messages) {
            page.through = number;
            let is_lost = self.sabotage == Some(Sabotage::LoseChange) && number.0 % 2 == 1;
            let is_here = |one: &ChangedMessage| one.message.seq == change.seq;
            if is_lost || change.seq.get() < seen.first || page.messages.iter().any(is_here) {
                continue;
            }
            if let Some(row) = self.store.message(conversation, change.seq) {
                page.messages.push(ChangedMessage {
                    message: self.readable(row.0),
                    by: change.by,
                    at: change.at,
                });
            }
        }
        page.more = page.through < seen.changes;
        page
    }

    /// A history was read to its end, which is before `next`. What the device knows to be there and has not is on its way.
    fn reached(
        &mut self,
        device: usize,
        conversation: ConversationId,
        next: u64,
        head: Option<Seq>,
    ) {
        let disk = &self.devices[device].disk;
        let head = head.max(disk.head(conversation)).map_or(0, Seq::get);
        let lacks = (next..=head).find(|seq| !disk.has(conversation, *seq));
        if let Some(first) = lacks {
            return self.ask_again_later(device, conversation, first);
        }
        self.has_all(device, conversation);
    }

    fn has_all(&mut self, device: usize, conversation: ConversationId) {
        self.devices[device].disk.is_read(conversation);
        if let Some(link) = &mut self.devices[device].link {
            link.again.remove(&conversation);
        }
    }

    fn ask_again_later(&mut self, device: usize, conversation: ConversationId, first: u64) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        let again = link.again.entry(conversation).or_default();
        again.tries += 1;
        // One pause at a time, for the lowest of them.
        if let Some(earlier) = &mut again.first {
            *earlier = first.min(*earlier);
            return;
        }
        again.first = Some(first);
        let (number, tries) = (link.number, again.tries.min(10));
        let most = ((50 * MS) << tries).min(AGAIN_MAX);
        let after = self.rng.between(MS, most);
        self.tell_device(device, after, AtDevice::Again(number, conversation));
    }

    /// The pause before a history is asked again is over.
    pub(crate) fn again(&mut self, device: usize, number: LinkNo, conversation: ConversationId) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        if link.number != number {
            return;
        }
        let again = link.again.get_mut(&conversation);
        if let Some(first) = again.and_then(|again| again.first.take()) {
            self.wonder(device, Question::Page(conversation, first));
        }
    }

    /// Keeps what a page says, and shows it. Says from where on it has to be asked for again, if changes overtook it that are not known.
    fn keep_page(
        &mut self,
        device: usize,
        messages: &[Message],
        changes: ChangeNumber,
    ) -> Option<Seq> {
        let number = self.devices[device].number;
        for message in messages {
            let (what, _) = self.names.what(message);
            let talk = self.names.talk(&message.conversation);
            let from = self.names.person(&message.from);
            let message = (message.seq.get(), from, what);
            self.checker.fetched(number, talk, message);
        }
        let it = &mut self.devices[device];
        let forgotten = it.link.as_ref().map_or(0, |link| link.forgotten);
        let known = (forgotten, changes);
        let (told, again) = it.disk.keep_history(&self.names, messages, known);
        for told in told {
            self.tell(device, told);
        }
        again
    }
}
