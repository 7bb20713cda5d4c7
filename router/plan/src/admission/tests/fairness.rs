//! Shares of tenants, turns, and whom a full queue takes.

use super::*;

#[test]
fn a_full_queue_refuses_with_a_hint_and_takes_from_the_tenant_that_has_most() {
    let mut admission = admission(3, replicas(1));
    submit(&mut admission, wanted("greedy", 4096));
    for _ in 0..3 {
        submit(&mut admission, wanted("greedy", 4096));
    }
    let (late, decisions) = admission.submit(Duration::ZERO, wanted("greedy", 4096));
    let [Decision { ticket, verdict: Verdict::Refused(refusal) }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(*ticket, late);
    assert!(refusal.retry_after().is_some_and(|after| after >= RETRY_SOONEST), "{refusal}");
    // Another tenant finds room: the newest of the greedy one's makes it.
    let (modest, decisions) = admission.submit(Duration::ZERO, wanted("modest", 4096));
    let [Decision { ticket, verdict: Verdict::Refused(refusal) }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert!(*ticket != modest && matches!(refusal, AdmissionRefusal::Displaced { .. }), "{refusal}");
    assert!(refusal.retry_after().is_some_and(|after| after >= RETRY_SOONEST), "{refusal}");
    // And it comes next, as its tenant has nothing running.
    let decisions = admission.release(SECOND, Ticket(0));
    assert_eq!(placed(&decisions)[0].0, modest);
}

#[test]
fn who_waits_is_not_put_out_for_an_equal() {
    let mut admission = admission(4, replicas(1));
    submit(&mut admission, wanted("runs", 4096));
    // Two each, one of them running for nobody.
    for tenant in ["a", "b", "a", "b"] {
        submit(&mut admission, wanted(tenant, 4096));
    }
    for (tenant, may) in [("a", false), ("b", false), ("runs", false), ("new", true)] {
        let tenant = tenant.parse().unwrap();
        assert_eq!(admission.would_refuse(&tenant).is_none(), may, "{tenant}");
    }
    let (newcomer, decisions) = admission.submit(SECOND, wanted("a", 4096));
    assert_eq!(decisions[0].ticket, newcomer);
    assert!(matches!(decisions[0].verdict, Verdict::Refused(AdmissionRefusal::QueueFull { .. })));
    // One that has nothing takes the place of one of two, once: then three tenants have about as much.
    let (first, decisions) = admission.submit(SECOND, wanted("new", 4096));
    assert!(decisions[0].ticket != first && admission.waiting() == 4, "{decisions:?}");
    let (second, decisions) = admission.submit(SECOND, wanted("new", 4096));
    assert_eq!(decisions[0].ticket, second);
    // What runs counts as well: who has a place does not put out who has as much without one.
    let (ticket, decisions) = admission.submit(SECOND, wanted("runs", 4096));
    assert_eq!(decisions[0].ticket, ticket);
    assert!(matches!(
        admission.would_refuse(&"runs".parse().unwrap()),
        Some(AdmissionRefusal::QueueFull { waiting: 4, .. })
    ));
    admission.close();
    assert_eq!(admission.would_refuse(&"new".parse().unwrap()), Some(AdmissionRefusal::Closed));
}

#[test]
fn new_names_do_not_go_before_one_that_waits() {
    let mut admission = admission(64, replicas(1));
    let mut running = submit(&mut admission, wanted("runs", 4096));
    for tenant in ["early", "served"] {
        // Its clock is behind: it was served some time ago.
        let ticket = submit(&mut admission, wanted(tenant, 4096));
        running = placed(&admission.release(SECOND, running))[0].0;
        assert_eq!(running, ticket);
    }
    let waits = submit(&mut admission, wanted("early", 4096));
    let mut turns = 0;
    loop {
        submit(&mut admission, wanted(&format!("name {turns}"), 4096));
        running = placed(&admission.release(SECOND, running))[0].0;
        turns += 1;
        if running == waits {
            break;
        }
        assert!(turns < 2, "it starves");
    }
}

#[test]
fn priority_orders_a_tenants_own_requests() {
    let mut admission = admission(8, replicas(1));
    submit(&mut admission, wanted("a", 4096));
    let low = submit(&mut admission, Wanted { priority: Priority::Low, ..wanted("a", 4096) });
    let normal = submit(&mut admission, wanted("a", 4096));
    let high = submit(&mut admission, Wanted { priority: Priority::High, ..wanted("a", 4096) });
    let mut order = Vec::new();
    for ticket in [Ticket(0), high, normal] {
        order.extend(placed(&admission.release(SECOND, ticket)).into_iter().map(|(ticket, _)| ticket));
    }
    assert_eq!(order, [high, normal, low]);
}

#[test]
fn three_priorities_are_one_tenants_share() {
    let mut admission = admission(64, replicas(1));
    let first = submit(&mut admission, wanted("runs", 4096));
    let all = [Priority::Low, Priority::Normal, Priority::High];
    for priority in all.iter().chain(&all) {
        submit(&mut admission, Wanted { priority: *priority, ..wanted("three", 4096) });
        submit(&mut admission, wanted("one", 4096));
    }
    let (mut running, mut order) = (first, Vec::new());
    while admission.waiting() > 0 {
        running = placed(&admission.release(SECOND, running))[0].0;
        let wanted = &admission.placed[&running].wanted;
        order.push((wanted.tenant.to_string(), wanted.priority));
    }
    let tenants: Vec<&str> = order.iter().map(|(tenant, _)| &tenant[..]).collect();
    assert_eq!(tenants.iter().filter(|tenant| **tenant == "three").count(), 6);
    assert!(tenants.chunks(2).all(|pair| pair[0] != pair[1]), "they take turns: {order:?}");
    let own: Vec<Priority> =
        order.iter().filter(|(tenant, _)| tenant == "three").map(|(_, priority)| *priority).collect();
    assert!(own.is_sorted_by(|a, b| a >= b), "the higher first: {own:?}");
}
