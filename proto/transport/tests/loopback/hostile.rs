//! Strangers who send junk, or begin handshakes that they never finish.

use std::{net::SocketAddr, time::Duration};

use proto::{FrameHeader, FrameKind};
use proto_transport::{ConnectError, ConnectionClass, Endpoint, EndpointConfig, Target, TransportMetrics};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::net::UdpSocket;

use crate::support::{LOOPBACK, echo, endpoint, faulty, key, pair, resident_bytes, within};

const JUNK: usize = 100_000;

#[tokio::test]
async fn another_protocol_version_is_named_on_either_side() {
    let a = endpoint(1);
    let old = Endpoint::bind(EndpointConfig::new(key(2), LOOPBACK).with_foreign_version()).expect("any port");
    for (from, to) in [(&a, &old), (&old, &a)] {
        let target = Target::node(to.node_id(), to.local_addr());
        let error =
            within(from.connect(target, ConnectionClass::Interactive)).await.expect_err("no common ALPN");
        assert!(matches!(error, ConnectError::VersionMismatch { .. }), "{error}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("version"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_junk_datagrams_leave_the_port_serving() {
    let seed: u64 = 20_117;
    println!("seed {seed}");
    let (a, b) = (endpoint(1), endpoint(2));
    let (dialled, accepted) = pair(&a, &b, ConnectionClass::Interactive).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(accepted));
    let before = resident_bytes();
    let target = b.local_addr();
    let flood = async move {
        let socket = UdpSocket::bind(LOOPBACK).await.expect("any port");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut buffer = vec![0; 1500];
        for number in 0..JUNK {
            let datagram = junk(&mut random, &mut buffer, number);
            // A full buffer loses junk too; that is what a flood looks like.
            let _ = socket.send_to(datagram, target).await;
        }
    };
    let flooding = tasks.spawn(flood);
    let mut served = 0;
    while !flooding.is_finished() || served == 0 {
        let answer = dialled.request(FrameKind::Tokens, vec![1; 64].into(), Duration::from_secs(5)).await;
        assert_eq!(answer.expect("served while junk arrives").body.len(), 64);
        served += 1;
    }
    let (again, _accepted) = pair(&endpoint(3), &b, ConnectionClass::Discovery).await;
    assert_eq!(again.peer(), b.node_id());
    let grown = resident_bytes().saturating_sub(before);
    println!("served {served} requests meanwhile; memory grew by {} kB", grown >> 10);
    assert!(grown < 64 << 20, "{grown}");
}

/// Pure noise, QUIC long headers of our version and others, and short headers, of any length.
fn junk<'a>(random: &mut ChaCha8Rng, buffer: &'a mut [u8], number: usize) -> &'a [u8] {
    let length = match number % 8 {
        0 => random.random_range(0..4),
        1..=3 => random.random_range(1200..1452),
        _ => random.random_range(1..1452),
    };
    let datagram = &mut buffer[..length];
    random.fill_bytes(datagram);
    if length > 32 && !number.is_multiple_of(4) {
        // Long header, fixed bit; version 1 in most, so that the Initial keys are really derived.
        datagram[0] |= 0xc0;
        if number % 4 < 3 {
            datagram[0] &= 0xcf;
            datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
            datagram[5] = 8;
            datagram[14] = 8;
            datagram[23] = 0;
        }
    }
    datagram
}

/// The pure parser has its million mutations in `proto`; this is the way there, with real streams.
#[tokio::test]
async fn junk_on_streams_ends_connections_and_nothing_else() {
    let seed: u64 = 20_118;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let b = endpoint(2);
    let (honest, accepted) = pair(&endpoint(1), &b, ConnectionClass::Interactive).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(accepted));
    let stranger = endpoint(3);
    let before = resident_bytes();
    for round in 0..300 {
        let (dialled, accepted) = pair(&stranger, &b, ConnectionClass::Bulk).await;
        let mut sender = within(dialled.open_uni()).await.expect("open");
        let mut bytes = vec![0; random.random_range(1..4000)];
        random.fill_bytes(&mut bytes);
        if bytes.len() > 8 && round % 3 > 0 {
            // A true header, of some kind, with some length within its limit, and too little or too much behind it.
            let kind = FrameKind::ALL[random.random_range(0..FrameKind::ALL.len())];
            let length = random.random_range(0..kind.max_body().min(5000));
            let header = FrameHeader::new(kind, length).expect("within the limit").to_bytes();
            bytes[..8].copy_from_slice(&header);
        }
        // The receiver may close at the first bytes already.
        let _ = within(sender.send_unframed(bytes.into())).await;
        sender.finish();
        let mut receiver = within(accepted.accept_uni()).await.expect("accepted");
        while let Ok(Some(frame)) = within(receiver.recv()).await {
            assert!(frame.body.len() <= frame.kind.max_body());
        }
    }
    let answer = honest.request(FrameKind::Tokens, vec![1].into(), Duration::from_secs(5)).await;
    assert_eq!(answer.expect("undisturbed").body[..], [1]);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown}");
}

#[tokio::test]
async fn handshakes_that_never_end_do_not_keep_others_out() {
    let registry = prometheus::Registry::new();
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    config.metrics = TransportMetrics::new(&registry).expect("a fresh registry");
    let b = Endpoint::bind(config).expect("any free port");
    let before = resident_bytes();
    // Its first packets reach `b`, no answer reaches it: each dial leaves a half-open handshake behind.
    let (deaf, faults) = faulty(1);
    faults.cut_from(b.local_addr());
    let target = Target::node(b.node_id(), b.local_addr());
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let deaf = deaf.clone();
        dials
            .spawn(async move { deaf.connect(target, ConnectionClass::Interactive).await.map(|c| c.peer()) });
    }
    let retried = || {
        registry
            .gather()
            .iter()
            .find(|family| family.name() == "transport_retries_total")
            .map_or(0.0, |family| family.get_metric()[0].get_counter().get_value())
    };
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    within(async {
        while retried() < 100.0 {
            tick.tick().await;
        }
    })
    .await;
    // The honest dialler is asked to prove its address, and does, and is in.
    let honest = endpoint(3);
    let started = tokio::time::Instant::now();
    let (dialled, _accepted) = pair(&honest, &b, ConnectionClass::Interactive).await;
    println!("honest dial took {:?} beside 1,000 half-open ones", started.elapsed());
    assert_eq!(dialled.peer(), b.node_id());
    let grown = resident_bytes().saturating_sub(before);
    println!("memory grew by {} kB (both sides)", grown >> 10);
    assert!(grown < 256 << 20, "{grown}");
    while let Some(dial) = within(dials.join_next()).await {
        dial.expect("no panic").expect_err("it hears nothing");
    }
}

#[tokio::test]
async fn too_many_half_open_handshakes_are_refused_and_forgotten() {
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    config.tuning.retry_above = 1000;
    config.tuning.max_half_open = 8;
    config.tuning.handshake_timeout = Duration::from_millis(300);
    let b = Endpoint::bind(config).expect("any free port");
    let (deaf, faults) = faulty(1);
    faults.cut_from(b.local_addr());
    let target = Target::node(b.node_id(), b.local_addr());
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let deaf = deaf.clone();
        dials
            .spawn(async move { deaf.connect(target, ConnectionClass::Interactive).await.map(|c| c.peer()) });
    }
    let honest = endpoint(3);
    let mut refused = 0;
    let connection = within(async {
        loop {
            match honest.connect(target, ConnectionClass::Interactive).await {
                Ok(connection) if refused > 0 => break connection,
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
                    assert!(error.is_retryable());
                    refused += 1;
                }
            }
        }
    })
    .await;
    assert_eq!(connection.peer(), b.node_id());
    dials.shutdown().await;
}

#[tokio::test]
async fn a_silent_application_does_not_queue_peers_without_bound() {
    let mut config = EndpointConfig::new(key(2), LOOPBACK);
    config.tuning.accept_queue = 2;
    config.tuning.handshake_timeout = Duration::from_millis(200);
    config.tuning.max_connections_per_peer = 100;
    let b = Endpoint::bind(config).expect("any free port");
    let a = endpoint(1);
    let target = Target::node(b.node_id(), b.local_addr());
    let mut dialled = Vec::new();
    for _ in 0..6 {
        dialled.push(within(a.connect(target, ConnectionClass::Interactive)).await.expect("the key is fine"));
    }
    let mut closed = 0;
    for connection in &dialled {
        if tokio::time::timeout(Duration::from_millis(500), connection.closed()).await.is_ok() {
            closed += 1;
        }
    }
    assert_eq!(closed, 4, "two wait for the application, the others were told");
    let _: SocketAddr = within(b.accept()).await.expect("the first").remote_addr();
}
