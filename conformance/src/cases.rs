//! The cases by area. Each is one function; its name and rules stand in the list at the end of its file.

use crate::suite::Case;

/// Declares the list of cases of one file: name, rules of SPEC.md, function. They run against any gateway, unless a profile
/// is named first.
macro_rules! cases {
    ($profile:ident: $( $name:literal, [$($rule:literal),*], $function:path; )*) => {
        /// The cases of this file.
        pub(super) const CASES: &[$crate::suite::Case] = &[$(
            $crate::suite::Case {
                name: $name,
                rules: &[$($rule),*],
                profile: $crate::suite::Profile::$profile,
                run: |context| Box::pin($function(context)),
            },
        )*];
    };
    ($( $name:literal, [$($rule:literal),*], $function:path; )*) => {
        cases! { Any: $( $name, [$($rule),*], $function; )* }
    };
}

mod changes;
mod frames;
mod groups;
mod hello;
mod history;
mod inbox;
mod media;
mod numbered;
mod presence;
mod queries;
mod sending;
mod small;
mod streams;

/// Every case, in the order in which they are run.
pub fn all() -> &'static [Case] {
    static ALL: std::sync::LazyLock<Vec<Case>> = std::sync::LazyLock::new(|| {
        [
            hello::CASES,
            sending::CASES,
            inbox::CASES,
            changes::CASES,
            history::CASES,
            queries::CASES,
            groups::CASES,
            frames::CASES,
            streams::CASES,
            media::CASES,
            presence::CASES,
            small::CASES,
            numbered::CASES,
        ]
        .concat()
    });
    &ALL
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = super::all().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), super::all().len());
    }
}
