//! Request streams: what a device asks beside its inbox, what the gateway's store answers, and what the device makes of it.

use std::cmp::Reverse;
use std::collections::VecDeque;

use quipu_core::row::{Conversation, EntityKey, IndexKey, IndexRange, Membership, Seat};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, Seq, TimestampMs, UserId};

use crate::sabotage::Sabotage;
use crate::world::{LinkNo, World};

/// One question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// A page of the user's conversations behind this entry.
    List(Option<(TimestampMs, ConversationId)>),
    /// The history from a seq on, page by page.
    Page(ConversationId, u64),
    /// One page of history, from a seq on.
    Around(ConversationId, u64),
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Answer {
    List {
        entries: Vec<Listed>,
        more: bool,
    },
    Page {
        conversation: ConversationId,
        messages: Vec<Message>,
        more: bool,
    },
    Refused(RejectCode),
}

/// One entry of the list.
#[derive(Debug)]
pub(crate) struct Listed {
    conversation: ConversationId,
    activity: TimestampMs,
    /// Of a group: whether the user is in it, and whether it is pulled.
    group: Option<(bool, bool)>,
    head: Option<Seq>,
}

/// Puts a question behind the others, unless it will be answered with one of them.
pub(crate) fn queue(questions: &mut VecDeque<Question>, question: Question) {
    let covers = |earlier: &Question| match (earlier, &question) {
        (Question::List(None), Question::List(None)) => true,
        (Question::Page(of, from), Question::Page(conversation, first)) => {
            of == conversation && from <= first
        }
        (Question::List(_) | Question::Page(..) | Question::Around(..), _) => false,
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
        let answer = self.answer_to(&user, question);
        self.carry_answer(link, answer);
    }

    /// What a user gets of the store.
    pub(crate) fn answer_to(&self, user: &UserId, question: Question) -> Answer {
        match question {
            Question::List(after) => self.list(user, after),
            Question::Page(conversation, first) | Question::Around(conversation, first) => {
                match self.first_visible(user, &conversation) {
                    Ok((visible, head)) => {
                        let first = first.max(visible);
                        let limit = self.plan.page_messages;
                        let rows = self.store.history(conversation, first);
                        let there = rows.take_while(|row| Some(row.0.seq) <= head);
                        let mut messages: Vec<Message> = there
                            .take(limit + 1)
                            .map(|row| self.readable(row.0))
                            .collect();
                        let more = messages.len() > limit && matches!(question, Question::Page(..));
                        messages.truncate(limit);
                        Answer::Page {
                            conversation,
                            messages,
                            more,
                        }
                    }
                    Err(code) => Answer::Refused(code),
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
        let ids = listed.into_iter().filter_map(|key| match key {
            IndexKey::Listed(_, conversation) => Some(conversation),
            IndexKey::Version(..)
            | IndexKey::MediaRef(..)
            | IndexKey::Due(..)
            | IndexKey::Report(..)
            | IndexKey::Here(_)
            | IndexKey::Offline(_) => None,
        });
        let mut entries: Vec<Listed> = ids
            .filter_map(|conversation| {
                let row = self.conversation(&conversation)?;
                let group = row.group.as_deref().map(|group| {
                    let is_in = self.first_visible(user, &conversation).is_ok();
                    (is_in, group.pulled.is_some())
                });
                Some(Listed {
                    conversation,
                    activity: row.activity,
                    group,
                    head: row.head,
                })
            })
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

    fn conversation(&self, id: &ConversationId) -> Option<Conversation> {
        Conversation::decode(self.store.entity(EntityKey::Conversation(*id))?).ok()
    }

    /// The oldest message that a member may see, and the head; to anybody else there is no such conversation.
    fn first_visible(
        &self,
        user: &UserId,
        id: &ConversationId,
    ) -> Result<(u64, Option<Seq>), RejectCode> {
        let unknown = RejectCode::UnknownConversation;
        let row = self.conversation(id).ok_or(unknown)?;
        let Some(group) = row.group.as_deref() else {
            let member = row.member(user).filter(|_| !row.unopened);
            return member.map(|_| (1, row.head)).ok_or(unknown);
        };
        if self.sabotage == Some(Sabotage::OpenHistory) {
            return Ok((1, row.head));
        }
        let member = self.store.entity(EntityKey::Member(*id, *user));
        let member = member.and_then(|member| Membership::decode(*user, member).ok());
        match member {
            Some(member) if matches!(member.seat, Seat::In(_)) => {
                Ok((member.first(group).get(), row.head))
            }
            Some(_) => Err(RejectCode::NotAMember),
            None => Err(unknown),
        }
    }

    /// Asks the next question, one at a time.
    pub(crate) fn ask_next(&mut self, device: usize) {
        let Some(link) = &mut self.devices[device].link else {
            return;
        };
        if !link.welcomed || link.is_asking {
            return;
        }
        if let Some(question) = link.questions.pop_front() {
            link.is_asking = true;
            let number = link.number;
            self.carry_question(number, question);
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
                let last = entries.last();
                let last = last.map(|entry| (entry.activity, entry.conversation));
                for entry in entries {
                    let Some((true, pulled)) = entry.group else {
                        continue;
                    };
                    let disk = &mut self.devices[device].disk;
                    if disk.listed(entry.conversation, pulled, entry.head) {
                        self.wonder(device, Question::Page(entry.conversation, 1));
                    }
                }
                if more {
                    self.wonder(device, Question::List(last));
                }
            }
            Answer::Page {
                conversation,
                messages,
                more,
            } => {
                self.keep_page(device, &messages);
                if let (Some(last), true) = (messages.last(), more) {
                    let next = last.seq.get() + 1;
                    self.wonder(device, Question::Page(conversation, next));
                }
            }
            // Not a member any more, which the inbox says too.
            Answer::Refused(code) => {
                self.trace
                    .say(|| format!("device {device} is answered {code}"));
            }
        }
        self.ask_next(device);
    }

    /// Keeps what a page says, and shows it.
    pub(crate) fn keep_page(&mut self, device: usize, messages: &[Message]) {
        let number = self.devices[device].number;
        for message in messages {
            let (what, _) = self.names.what(message);
            let talk = self.names.talk(&message.conversation);
            let from = self.names.person(&message.from);
            let message = (message.seq.get(), from, what);
            self.checker.fetched(number, talk, message);
        }
        let told = self.devices[device]
            .disk
            .keep_history(&self.names, messages);
        for told in told {
            self.tell(device, told);
        }
    }
}
