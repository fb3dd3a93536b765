//! Which gateway to try next.

use quipu_protocol::limits::REDIRECT_HOPS_MAX;

/// The gateways that may serve this user: where it is pinned, who takes over, and what was configured.
#[derive(Debug)]
pub(super) struct Route {
    configured: String,
    home: Option<String>,
    next: Vec<String>,
    redirect: Option<String>,
    hops: usize,
    failures: usize,
    /// Whether the gateway of the last attempt let the device in.
    welcomed: bool,
}

impl Route {
    /// Knows one gateway.
    pub(super) fn new(configured: String) -> Self {
        Self {
            configured,
            home: None,
            next: Vec::new(),
            redirect: None,
            hops: 0,
            failures: 0,
            welcomed: false,
        }
    }

    /// The address for the next attempt.
    pub(super) fn authority(&self) -> String {
        if let Some(redirect) = &self.redirect {
            return redirect.clone();
        }
        let mut candidates: Vec<&String> = Vec::new();
        for candidate in self.home.iter().chain(&self.next).chain([&self.configured]) {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates[self.failures % candidates.len()].clone()
    }

    /// A gateway named another one. `false`: too many did in a row, back off first.
    pub(super) fn redirected(&mut self, authority: String) -> bool {
        self.welcomed = false;
        self.hops += 1;
        if self.hops > REDIRECT_HOPS_MAX {
            return false;
        }
        self.redirect = Some(authority);
        true
    }

    /// This gateway let the device in.
    pub(super) fn welcomed(&mut self, authority: String, home: String, next: Vec<String>) {
        self.home = Some(if home.is_empty() { authority } else { home });
        self.next = next;
        self.redirect = None;
        self.hops = 0;
        self.failures = 0;
        self.welcomed = true;
    }

    /// The connection broke. One that was let in is tried once more at the same gateway, after that it is the next one's turn.
    pub(super) fn failed(&mut self) {
        self.redirect = None;
        self.hops = 0;
        if !std::mem::take(&mut self.welcomed) {
            self.failures = self.failures.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_turns_from_the_user_s_own_gateway_on() {
        let mut route = Route::new("a:1".into());
        assert_eq!(route.authority(), "a:1");
        route.welcomed(
            "a:1".into(),
            String::new(),
            vec!["b:1".into(), "a:1".into(), "c:1".into()],
        );
        let mut tried = Vec::new();
        for _ in 0..4 {
            route.failed();
            tried.push(route.authority());
        }
        assert_eq!(tried, ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn follows_three_redirects_and_no_fourth() {
        let mut route = Route::new("a:1".into());
        for hop in ["b:1", "c:1", "d:1"] {
            assert!(route.redirected(hop.into()));
            assert_eq!(route.authority(), hop);
        }
        assert!(!route.redirected("e:1".into()));
        route.failed();
        assert_eq!(route.authority(), "a:1");
    }
}
