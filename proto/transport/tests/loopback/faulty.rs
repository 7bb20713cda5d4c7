//! Delivery over a network with faults.

use std::time::Duration;

use bytes::Bytes;
use proto::FrameKind;
use proto_transport::{Connection, ConnectionClass, testing::Link};

use crate::support::{faulty, pair, within};

const FRAMES: usize = 1500;

/// A body whose length and content follow from its number.
fn body(number: usize) -> Bytes {
    Bytes::from(vec![number as u8; number * 37 % 4096])
}

async fn send_all(connection: &Connection) {
    let mut sender = connection.open_uni().await.expect("open");
    for number in 0..FRAMES {
        sender.send(FrameKind::Activations, body(number)).await.expect("sent");
    }
    sender.finish();
    assert_eq!(sender.stopped().await.expect("open"), None);
}

async fn receive_all(connection: &Connection) {
    let mut receiver = connection.accept_uni().await.expect("accepted");
    for number in 0..FRAMES {
        let frame = receiver.recv().await.expect("received").expect("a frame");
        assert_eq!(frame.body, body(number), "frame {number}");
    }
    assert_eq!(receiver.recv().await, Ok(None));
}

#[tokio::test]
async fn loss_reordering_and_duplication_change_nothing_but_time() {
    let ((a, from_a), (b, from_b)) = (faulty(1), faulty(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Bulk).await;
    let bad = Link {
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.1,
        reorder_by: Duration::from_millis(2),
        ..Link::default()
    };
    from_a.everywhere(bad);
    from_b.everywhere(bad);
    within(async {
        tokio::join!(send_all(&dialled), send_all(&accepted), receive_all(&dialled), receive_all(&accepted))
    })
    .await;
    for faults in [from_a, from_b] {
        let counts = faults.counts();
        assert!(counts.dropped > 0 && counts.duplicated > 0 && counts.delayed > 0, "{counts:?}");
    }
    assert!(dialled.stats().lost_packets > 0);
}

#[tokio::test]
async fn a_delayed_link_has_the_delay_as_its_round_trip() {
    let ((a, from_a), (b, from_b)) = (faulty(1), faulty(2));
    let slow = Link { delay: Duration::from_millis(20), ..Link::default() };
    from_a.everywhere(slow);
    from_b.towards(a.local_addr(), slow);
    let (dialled, _accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let rtt = dialled.stats().min_rtt;
    assert!(rtt >= Duration::from_millis(40) && rtt < Duration::from_millis(120), "{rtt:?}");
}

#[tokio::test]
async fn a_lost_first_packet_does_not_cost_the_dial() {
    let ((a, faults), b) = (faulty(1), crate::support::endpoint(2));
    faults.cut_to(b.local_addr());
    let healed = async {
        tokio::time::timeout(Duration::from_millis(150), std::future::pending::<()>()).await.ok();
        faults.heal();
    };
    let ((dialled, _accepted), ()) =
        within(async { tokio::join!(pair(&a, &b, ConnectionClass::Interactive), healed) }).await;
    assert_eq!(dialled.peer(), b.node_id());
}
