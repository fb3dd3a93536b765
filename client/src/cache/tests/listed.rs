//! What a list of conversations does to what the cache has of them.

use quipu_protocol::event::Role;
use quipu_protocol::query::{ConversationEntry, GroupInfo};

use super::*;

#[test]
fn a_list_that_is_ahead_of_a_large_group_leaves_a_gap() {
    let listed = |head| ConversationEntry {
        conversation: CLIMBERS,
        peer: None,
        group: Some(GroupInfo {
            title: "climbing".to_owned(),
            topic: String::new(),
            role: Some(Role::Member),
            invited_by: None,
            members: 1000,
            open: true,
            history_from_start: true,
            pulled: true,
        }),
        head: Some(seq(head)),
        first: Seq::FIRST,
        delivered: None,
        read: None,
        unread: 0,
        last: Some(climber(head, 0, &[])),
        activity: TimestampMs(head),
        keep_ms: 0,
        peer_delivered: None,
        peer_read: None,
        blocked: false,
        changes: ChangeNumber::START,
    };
    let mut tables = alice(None);
    let gap = |tables: &Tables| tables.pulled().expect("reads")[0].gap_after;
    // Of which nothing is here, nothing is missing.
    let (_, behind) = tables.keep_listed(&[listed(5)]).expect("keeps");
    assert_eq!((behind, gap(&tables)), (vec![], None));
    let (_, behind) = tables.keep_listed(&[listed(5)]).expect("keeps");
    assert_eq!((behind, gap(&tables)), (vec![], None));
    let (_, behind) = tables.keep_listed(&[listed(9)]).expect("keeps");
    assert_eq!((behind, gap(&tables)), (vec![(CLIMBERS, Some(5))], Some(5)));
}
