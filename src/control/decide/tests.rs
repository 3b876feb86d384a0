use super::*;
use crate::control::Signature;
use crate::control::command::{Change, TenantLimits};
use crate::ids::Digest;

fn signature() -> Signature {
    Signature { actor: "ada".into(), reason: "ticket 812".into() }
}

/// A policy of one letter: what it says, and what its fingerprints take beside what is built in.
fn summary(name: &str, said: u8, header: &str) -> Summary {
    let mut spec = Spec::built_in();
    if !header.is_empty() {
        spec.headers.push(header.to_owned());
        spec.headers.sort_unstable();
    }
    Summary { name: PolicyName::parse(name).unwrap(), digest: Digest([said; 32]), selection: spec.to_json() }
}

fn set(expected: u32, text: &str, policies: Vec<Summary>) -> Command {
    let sources = vec![Source { name: "a.toml".to_owned(), text: text.to_owned() }];
    Command { signature: signature(), kind: Kind::SetPolicies { expected, sources, policies } }
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn create(name: &str, home: Option<&str>, limits: TenantLimits) -> Command {
    let home = home.map(|home| RegionName::parse(home).unwrap());
    Command { signature: signature(), kind: Kind::CreateTenant { name: tenant(name), home, limits } }
}

fn change(name: &str, closed: impl Into<Option<bool>>, limits: LimitChanges) -> Command {
    let closed = closed.into();
    Command { signature: signature(), kind: Kind::ChangeTenant { name: tenant(name), closed, limits } }
}

/// Decides, keeps what changed, and gives the reply and what the audit says.
fn then(state: &mut State, command: &Command, at: u64) -> (Reply, Option<String>) {
    let decision = decide(state, command, LogTime::from_unix_ms(at));
    assert_eq!(decision.state.is_some(), !decision.writes.is_empty(), "what changes is stored");
    if let Some(next) = decision.state {
        *state = next;
    }
    let said = |audited: Audited| format!("{} {}: {}", audited.action.as_str(), audited.target, audited.detail);
    (decision.reply, decision.audited.map(said))
}

#[test]
fn a_revision_holds_until_the_next_and_says_what_it_changed() {
    let mut state = State::default();
    let first = set(0, "1", vec![summary("a", 1, ""), summary("b", 1, "x-shop")]);
    let (reply, audited) = then(&mut state, &first, 10);
    assert_eq!(reply, Reply::Policies { revision: 1 });
    assert_eq!(audited.as_deref(), Some("set-policies revision 1: added a, b"));
    let second = set(1, "2", vec![summary("b", 2, "x-shop"), summary("c", 1, "")]);
    let (reply, audited) = then(&mut state, &second, 20);
    assert_eq!(reply, Reply::Policies { revision: 2 });
    assert_eq!(audited.as_deref(), Some("set-policies revision 2: added c; changed b; removed a"));
    assert_eq!((state.revision(), state.revisions.len()), (2, 2), "the one before is kept");
}

#[test]
fn whoever_compared_with_another_revision_is_refused_unless_it_is_the_same_call_again() {
    let mut state = State::default();
    let first = set(0, "1", vec![summary("a", 1, "")]);
    then(&mut state, &first, 10);
    let (reply, audited) = then(&mut state, &first, 11);
    assert_eq!((reply, audited), (Reply::Policies { revision: 1 }, None), "sent twice, done once");
    let other = set(0, "other", vec![summary("z", 1, "")]);
    assert_eq!(then(&mut state, &other, 12), (Reply::OtherRevision { current: 1 }, None));
    let same = set(1, "1", vec![summary("a", 1, "")]);
    assert_eq!(then(&mut state, &same, 13), (Reply::Policies { revision: 1 }, None), "nothing is different");
}

#[test]
fn a_selection_has_one_number_for_ever() {
    let mut state = State::default();
    then(&mut state, &set(0, "1", vec![summary("a", 1, ""), summary("b", 1, "x-shop")]), 10);
    let selection =
        |state: &State, name: &str| state.policies().get(&PolicyName::parse(name).unwrap()).unwrap().selection;
    assert_eq!((selection(&state, "a"), selection(&state, "b")), (BUILT_IN, 2), "what is built in has its own");
    then(&mut state, &set(1, "2", vec![summary("a", 1, "x-store"), summary("b", 1, "")]), 20);
    assert_eq!((selection(&state, "a"), selection(&state, "b")), (3, BUILT_IN));
    then(&mut state, &set(2, "3", vec![summary("a", 1, "x-shop"), summary("b", 1, "x-store")]), 30);
    assert_eq!((selection(&state, "a"), selection(&state, "b")), (2, 3), "back to the numbers that they had");
    assert_eq!(state.selections.len(), 2);
}

#[test]
fn a_revision_is_forgotten_when_nothing_can_have_been_granted_under_it_any_more() {
    let longest = *limits::RETENTION_MS.end();
    let mut state = State::default();
    then(&mut state, &set(0, "1", vec![summary("a", 1, "")]), 1_000);
    then(&mut state, &set(1, "2", vec![summary("a", 2, "")]), 2_000);
    then(&mut state, &set(2, "3", vec![summary("a", 3, "")]), 2_000 + longest);
    assert_eq!(state.revisions.keys().copied().collect::<Vec<_>>(), [1, 2, 3], "1 held until 2,000");
    let decision = decide(&state, &set(3, "4", vec![summary("a", 4, "")]), LogTime::from_unix_ms(2_001 + longest));
    assert!(decision.writes.contains(&Write::RevisionGone(1)), "{:?}", decision.writes);
    assert_eq!(decision.state.unwrap().revisions.keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn only_so_many_revisions_and_selections_are_kept() {
    let mut state = State::default();
    for number in 0..=u32::try_from(limits::MAX_POLICY_REVISIONS).unwrap() {
        then(&mut state, &set(number, &number.to_string(), vec![summary("a", 1, "")]), u64::from(number));
    }
    assert_eq!(state.revisions.len(), limits::MAX_POLICY_REVISIONS);
    assert!(!state.revisions.contains_key(&1), "the oldest went");
    for number in 0..limits::MAX_SELECTIONS {
        let next = u32::try_from(number).unwrap() + 2;
        state.selections.insert(next, format!("selection {number}"));
    }
    let current = state.revision();
    let (reply, _) = then(&mut state, &set(current, "x", vec![summary("a", 1, "x-new")]), 9_999);
    assert_eq!(reply, Reply::Full { what: "selections".to_owned(), most: limits::MAX_SELECTIONS });
    assert_eq!(state.revision(), current, "nothing was done");
}

#[test]
fn a_tenant_is_made_once_and_keeps_its_home() {
    let mut state = State::default();
    let most = TenantLimits { max_keys: Some(5), ..TenantLimits::default() };
    let (reply, audited) = then(&mut state, &create("acme", Some("eu"), most), 10);
    assert_eq!(reply, Reply::Tenant);
    assert_eq!(audited.as_deref(), Some("create-tenant tenant acme: home eu; max_keys 5"));
    assert_eq!(then(&mut state, &create("acme", Some("eu"), most), 11), (Reply::Tenant, None), "sent twice");
    assert_eq!(then(&mut state, &create("acme", Some("us"), most), 12), (Reply::TenantExists, None));
    assert_eq!(then(&mut state, &create("acme", None, most), 12), (Reply::TenantExists, None));
    let (keep, most) = (LimitChanges::default(), LimitChanges::to(most));
    let (_, audited) = then(&mut state, &change("acme", true, keep), 13);
    assert_eq!(audited.as_deref(), Some("close-tenant tenant acme: max_keys 5"));
    assert_eq!(then(&mut state, &change("acme", true, most), 14), (Reply::Tenant, None), "closed already");
    let (_, audited) = then(&mut state, &change("acme", true, LimitChanges::to(TenantLimits::default())), 15);
    assert_eq!(audited.as_deref(), Some("set-tenant-limits tenant acme: no limits"));
    let (_, audited) = then(&mut state, &change("acme", false, keep), 16);
    assert_eq!(audited.as_deref(), Some("reopen-tenant tenant acme: no limits"));
    let known = state.tenants.get(&tenant("acme")).unwrap();
    assert_eq!((known.home.as_ref().map(RegionName::as_str), known.made_at.unix_ms()), (Some("eu"), 10));
    assert_eq!(then(&mut state, &change("other", true, most), 17), (Reply::TenantUnknown, None));
}

#[test]
fn what_was_decided_elsewhere_is_only_noted() {
    let kind = Kind::Note { action: Action::ChangeMembers, target: "promoted node 4".to_owned() };
    let mut state = State::default();
    let (reply, audited) = then(&mut state, &Command { signature: signature(), kind }, 10);
    assert_eq!((reply, audited.as_deref()), (Reply::Noted, Some("change-members promoted node 4: ")));
    assert_eq!(state, State::default());
}

#[test]
fn what_a_change_does_not_name_stays_whatever_was_decided_meanwhile() {
    let mut state = State::default();
    then(&mut state, &create("acme", None, TenantLimits::default()), 10);
    let keys = LimitChanges { max_keys: Change::Set(5), ..LimitChanges::default() };
    let bytes = LimitChanges { max_bytes: Change::Set(6), ..LimitChanges::default() };
    let no_keys = LimitChanges { max_keys: Change::Clear, ..LimitChanges::default() };
    // All were asked for at once, by operators who knew an open tenant without limits.
    then(&mut state, &change("acme", true, LimitChanges::default()), 11);
    then(&mut state, &change("acme", None, keys), 12);
    let (_, audited) = then(&mut state, &change("acme", None, bytes), 13);
    assert_eq!(audited.as_deref(), Some("set-tenant-limits tenant acme: max_keys 5, max_bytes 6"));
    then(&mut state, &change("acme", None, no_keys), 14);
    let known = state.tenants.get(&tenant("acme")).unwrap();
    let limits = TenantLimits { max_bytes: Some(6), ..TenantLimits::default() };
    assert_eq!((known.closed, known.limits), (true, limits));
}

#[test]
fn taking_every_policy_away_may_be_sent_twice() {
    let mut state = State::default();
    then(&mut state, &set(0, "1", vec![summary("a", 1, "")]), 10);
    let nothing = set(1, "", Vec::new());
    assert_eq!(then(&mut state, &nothing, 11).0, Reply::Policies { revision: 2 });
    assert_eq!(then(&mut state, &nothing, 12), (Reply::Policies { revision: 2 }, None));
}
