//! The switcher: find a conversation by a few letters of its name, or open one with anybody.

use quipu_protocol::id::{ConversationId, UserId};

use super::Edit;
use super::conversations::Conversations;
use super::field::Field;

/// Most bytes of a query.
const QUERY_BYTES_MAX: usize = 64;

/// The open switcher.
#[derive(Debug)]
pub(crate) struct Switcher {
    /// What was typed.
    pub(crate) query: Field,
    /// What it finds, the best first.
    pub(crate) choices: Vec<Choice>,
    /// Which of them is chosen.
    pub(crate) at: usize,
}

/// One line of the switcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A conversation of the list.
    Known(ConversationId),
    /// A first message to somebody.
    New(UserId),
}

impl Switcher {
    /// Opens it, with every conversation.
    pub(crate) fn new(me: UserId, conversations: &Conversations) -> Self {
        let mut switcher = Self {
            query: Field::new(QUERY_BYTES_MAX),
            choices: Vec::new(),
            at: 0,
        };
        switcher.search(me, conversations);
        switcher
    }

    /// Takes a paste into the query.
    pub(crate) fn paste(&mut self, pasted: &str, me: UserId, conversations: &Conversations) {
        self.query.insert(pasted.trim());
        self.search(me, conversations);
    }

    /// Writes in the query.
    pub(crate) fn edit(&mut self, edit: Edit, me: UserId, conversations: &Conversations) {
        self.query.edit(edit);
        self.search(me, conversations);
    }

    /// Moves the choice, going round at the ends.
    pub(crate) fn step(&mut self, back: bool) {
        let count = self.choices.len().max(1);
        self.at = (self.at + if back { count - 1 } else { 1 }) % count;
    }

    /// What is chosen.
    pub(crate) fn chosen(&self) -> Option<Choice> {
        self.choices.get(self.at).copied()
    }

    fn search(&mut self, me: UserId, conversations: &Conversations) {
        let query = self.query.text().trim().to_lowercase();
        let mut found: Vec<(u32, usize, Choice)> = conversations
            .iter()
            .enumerate()
            .filter_map(|(order, row)| {
                Some((
                    score(&query, &row.title().to_lowercase())?,
                    order,
                    Choice::Known(row.id),
                ))
            })
            .collect();
        found.sort_by_key(|(score, order, _)| (*score, *order));
        self.choices = found.into_iter().map(|(_, _, choice)| choice).collect();
        if let Ok(name) = UserId::new(&query)
            && name != me
            && !conversations.iter().any(|row| row.peer == Some(name))
        {
            self.choices.push(Choice::New(name));
        }
        self.at = 0;
    }
}

/// How badly a query's letters, in order, fit a name: 0 is the name itself, then its beginning, then letters close together.
/// `None`: they are not all there.
fn score(query: &str, name: &str) -> Option<u32> {
    if query == name {
        return Some(0);
    }
    if name.starts_with(query) {
        return Some(1);
    }
    let mut spread = 0;
    let mut rest = name.chars();
    let mut first = true;
    for wanted in query.chars() {
        let skipped = rest.by_ref().position(|c| c == wanted)?;
        // What goes before the first letter counts little, holes between letters count more.
        spread += skipped as u32 * if first { 1 } else { 4 };
        first = false;
    }
    Some(2 + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_fits_come_first() {
        assert_eq!(score("bob", "bob"), Some(0));
        assert_eq!(score("bo", "bob"), Some(1));
        assert_eq!(score("", "bob"), Some(1));
        assert_eq!(score("bx", "bob"), None);
        assert!(score("rt", "robert") > score("ert", "robert"));
    }
}
