//! Faults as they fall due: whom they strike, and what befalls them.

use proto_transport::testing::Faults;
use router_plan::Route;
use tokio::time::Instant;

use super::super::draw::{Due, Fault, Peer, Whom};
use super::{Inner, Play};

impl Play {
    pub(super) fn note_route(&self, stream: usize, route: &Route) {
        let nodes = route.stages.iter().map(|stage| stage.node).collect();
        self.lock().routes.insert(stream, nodes);
    }

    /// A token came; faults that are due strike before anything else happens in this thread.
    pub(super) fn came(&self) {
        let mut inner = self.lock();
        self.told.send_modify(|(told, _)| *told += 1);
        let told = self.told.borrow().0;
        while let Some(due) = inner.due.pop_front_if(|due| due.after <= told) {
            self.strike(&mut inner, due);
        }
    }

    fn strike(&self, inner: &mut Inner, due: Due) {
        match due.whom {
            Whom::Router(router) => self.befall(inner, due.fault, &self.routers[router].faults, None),
            Whom::TheLast => {
                if let Some(node) = inner.last {
                    self.befall(inner, due.fault, &self.faults[node], Some(node));
                }
            }
            Whom::AllOf(span) => {
                inner.gone = Some(Instant::now());
                for node in self.schedule.nodes_of(span) {
                    self.befall(inner, due.fault, &self.faults[node], Some(node));
                }
            }
            Whom::Span(span) => {
                let free: Vec<usize> =
                    self.schedule.nodes_of(span).filter(|node| !inner.struck.contains(node)).collect();
                let used =
                    |node: &&usize| inner.routes.values().any(|route| route.contains(&self.ids[**node]));
                let Some(&node) = free.iter().find(used).or_else(|| free.first()) else { return };
                // One is spared.
                if due.fault.takes_away() && free.len() == 1 {
                    return;
                }
                inner.last = Some(node);
                self.befall(inner, due.fault, &self.faults[node], Some(node));
            }
        }
    }

    fn befall(&self, inner: &mut Inner, fault: Fault, faults: &Faults, node: Option<usize>) {
        *inner.tally.faults.entry(fault.kind()).or_default() += 1;
        if let Some(node) = node.filter(|_| fault.takes_away()) {
            inner.struck.insert(node);
        }
        let addr = |peer| match peer {
            Peer::Router(router) => self.routers[router].addr,
            Peer::Node(after) => self.addrs[(node.unwrap_or(0) + after) % self.addrs.len()],
        };
        match (fault, node) {
            (Fault::Freeze, _) => faults.freeze(),
            (Fault::Thaw, _) => faults.thaw(),
            (Fault::CutTo(peer), _) => faults.cut_to(addr(peer)),
            (Fault::CutFrom(peer), _) => faults.cut_from(addr(peer)),
            (Fault::Link(link), _) => faults.everywhere(link),
            (Fault::Heal, _) => faults.heal(),
            // The channel has room for each node once, and none is struck twice.
            (Fault::Stop | Fault::Drain, Some(node)) => {
                let _ = self.leaving.try_send((node, matches!(fault, Fault::Drain)));
            }
            (Fault::Stop | Fault::Drain, None) => {}
        }
    }

    pub(super) fn heal(&self) {
        for faults in self.faults.iter().chain(self.routers.iter().map(|router| &router.faults)) {
            faults.heal();
            faults.thaw();
        }
    }
}
