//! A layer of experts: a router chooses a few feed-forward networks for each row, whose results are summed with
//! its weights (Shazeer et al. 2017, <https://arxiv.org/abs/1701.06538>; HF `modeling_mixtral.py` and
//! `modeling_qwen3_moe.py`).
//!
//! Owns routing, grouping and summing; where the matrices come from stands in `families/experts.rs`. An expert is
//! read only if some row chose it, and once for all rows that did. A row's result is the sum over its experts in
//! the order of their indices, so that its company has no part in it.

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, TorchError};
use crate::kernels::linear::Linear;
use crate::kernels::rows::{Gate, gated};

/// The experts of one layer and their router.
#[derive(Debug)]
pub(crate) struct ExpertLayer {
    /// f32 in every class: a logit rounded to bf16 chooses other experts.
    pub(crate) router: Linear,
    pub(crate) experts: Vec<Expert>,
    pub(crate) routing: Routing,
}

/// One feed-forward network.
#[derive(Debug)]
pub(crate) struct Expert {
    /// Gate and up in one matrix.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

/// How logits become experts and weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Routing {
    /// Experts of a row, at least one.
    pub(crate) used: usize,
    /// Weights are divided by their sum over the chosen; otherwise they are those of a softmax over all.
    pub(crate) normalise: bool,
}

impl ExpertLayer {
    /// `residual` plus the weighted experts of each row of `x`, both `[rows, hidden]`; of the type of `residual`.
    pub(crate) fn sum_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TorchError> {
        let logits = self.router.forward_f32(&x.f_to_kind(Kind::Float)?)?;
        // Elsewhere than on the CPU this waits for the device: which experts to read is decided here.
        let logits = logits.f_to_device(Device::Cpu)?.f_contiguous()?;
        let logits = ffi::contiguous_f32(&logits).ok_or_else(|| dense("router logits"))?;
        let calls = self.routing.calls(logits, self.experts.len());
        let mut sum = if x.device() == Device::Cpu { self.sum(x, &calls)? } else { self.sum_any(x, &calls)? };
        Ok(sum.f_add_(residual)?.f_to_kind(residual.kind())?)
    }

    /// Bytes of the router and of so many experts, which are all alike.
    pub(crate) fn matrix_bytes(&self, experts: usize) -> usize {
        let one = self.experts.first().map_or(0, |expert| expert.gate_up.bytes() + expert.down.bytes());
        experts * one + self.router.bytes()
    }

    /// The weighted sum in f32. Each product and sum is a rounding of its own, which a row's place in the loop
    /// cannot change.
    fn sum(&self, x: &Tensor, calls: &[Call]) -> Result<Tensor, TorchError> {
        let (rows, width) = x.size2()?;
        ffi::filled(&[rows, width], |sum: &mut [f32]| {
            for call in calls {
                let y = self.expert(x, call)?.f_contiguous()?;
                let y = ffi::contiguous_f32(&y).ok_or_else(|| dense("an expert's result"))?;
                let width = width as usize;
                for ((&row, &weight), y) in call.rows.iter().zip(&call.weights).zip(y.chunks_exact(width)) {
                    let sum = &mut sum[row as usize * width..][..width];
                    for (sum, y) in sum.iter_mut().zip(y) {
                        *sum += weight * y;
                    }
                }
            }
            Ok(())
        })?
    }

    fn sum_any(&self, x: &Tensor, calls: &[Call]) -> Result<Tensor, TorchError> {
        let mut sum = Tensor::f_zeros(x.size(), (Kind::Float, x.device()))?;
        for call in calls {
            let weights = Tensor::f_from_slice(&call.weights)?.f_to_device(x.device())?.f_unsqueeze(1)?;
            let rows = Tensor::f_from_slice(&call.rows)?.f_to_device(x.device())?;
            sum = sum.f_index_add_(0, &rows, &self.expert(x, call)?.f_mul(&weights)?)?;
        }
        Ok(sum)
    }

    /// One expert over its rows, in f32.
    fn expert(&self, x: &Tensor, call: &Call) -> Result<Tensor, TorchError> {
        let expert = self.experts.get(call.expert).ok_or_else(|| dense("the list of experts"))?;
        let x = match call.rows[..] {
            [row] => x.f_narrow(0, row, 1)?,
            _ if call.rows.len() as i64 == x.size2()?.0 => x.shallow_clone(),
            _ => x.f_index_select(0, &Tensor::f_from_slice(&call.rows)?.f_to_device(x.device())?)?,
        };
        expert.down.forward_f32(&gated(&expert.gate_up.forward(&x)?, Gate::Silu)?)
    }
}

/// One expert's work in a step.
#[derive(Debug, PartialEq)]
struct Call {
    expert: usize,
    /// The rows that chose it, ascending, with the weights they give it.
    rows: Vec<i64>,
    weights: Vec<f32>,
}

impl Routing {
    /// The calls of a step, ascending by expert, from logits `[rows, experts]`.
    fn calls(self, logits: &[f32], experts: usize) -> Vec<Call> {
        let mut chosen = Vec::with_capacity(self.used * (logits.len() / experts));
        for (row, logits) in logits.chunks_exact(experts).enumerate() {
            chosen.extend(self.choose(logits).into_iter().map(|(expert, weight)| (expert, row, weight)));
        }
        // Stable, so that rows stay in order.
        chosen.sort_by_key(|&(expert, ..)| expert);
        let calls = chosen.chunk_by(|a, b| a.0 == b.0).map(|rows| Call {
            expert: rows[0].0,
            rows: rows.iter().map(|&(_, row, _)| row as i64).collect(),
            weights: rows.iter().map(|&(.., weight)| weight).collect(),
        });
        calls.collect()
    }

    /// The experts of one row with their weights. Of equal logits the first counts as larger; what NaN chooses is
    /// some expert with weight NaN.
    fn choose(self, logits: &[f32]) -> Vec<(usize, f32)> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let largest = order.first().map_or(0.0, |&first| logits[first]);
        order.truncate(self.used);
        let share = |&expert: &usize| (logits[expert] - largest).exp();
        let total: f32 = if self.normalise {
            order.iter().map(share).sum()
        } else {
            (0..logits.len()).map(|expert| share(&expert)).sum()
        };
        order.iter().map(|expert| (*expert, share(expert) / total)).collect()
    }
}

fn dense(what: &str) -> TorchError {
    TorchError(format!("{what} is not of the shape it was made with").into())
}

#[cfg(test)]
mod tests {
    use crate::ffi::InferenceMode;
    use crate::kernels::linear::LinearKind;

    use super::*;

    const HIDDEN: i64 = 48;
    const FFN: i64 = 24;
    const EXPERTS: i64 = 6;

    fn layer(kind: LinearKind, routing: Routing) -> (ExpertLayer, Vec<[Tensor; 2]>, Tensor) {
        tch::manual_seed(7);
        let random = |out: i64, width: i64| {
            let scale = (width as f64).sqrt();
            (Tensor::randn([out, width], (Kind::Float, Device::Cpu)) / scale)
                .to_kind(kind.weight_kind())
                .to_kind(Kind::Float)
        };
        let linear = |weight: &Tensor| Linear::new(weight.to_kind(kind.weight_kind()), kind).unwrap();
        let weights: Vec<[Tensor; 2]> =
            (0..EXPERTS).map(|_| [random(2 * FFN, HIDDEN), random(HIDDEN, FFN)]).collect();
        let router = random(EXPERTS, HIDDEN) * 3.0;
        let experts =
            weights.iter().map(|[gate_up, down]| Expert { gate_up: linear(gate_up), down: linear(down) });
        let layer = ExpertLayer {
            router: Linear::new(router.copy(), LinearKind::Exact).unwrap(),
            experts: experts.collect(),
            routing,
        };
        (layer, weights, router)
    }

    /// The definition: a softmax over all experts, the largest `used`, every expert over every row.
    fn defined(x: &Tensor, weights: &[[Tensor; 2]], router: &Tensor, routing: Routing) -> Tensor {
        let x = x.to_kind(Kind::Float);
        let shares = x.linear(router, None::<&Tensor>).softmax(-1, Kind::Float);
        let (top, chosen) = shares.topk(routing.used as i64, -1, true, true);
        let top = if routing.normalise { &top / top.sum_dim_intlist(-1, true, Kind::Float) } else { top };
        let all = shares.zeros_like().scatter(1, &chosen, &top);
        let mut sum = x.zeros_like();
        for (expert, [gate_up, down]) in weights.iter().enumerate() {
            let both = x.linear(gate_up, None::<&Tensor>);
            let gated = both.narrow(1, 0, FFN).silu() * both.narrow(1, FFN, FFN);
            sum += gated.linear(down, None::<&Tensor>) * all.narrow(1, expert as i64, 1);
        }
        sum
    }

    #[test]
    fn the_sum_is_that_of_the_definition() {
        let _mode = InferenceMode::enter().unwrap();
        for normalise in [true, false] {
            for used in [1, 2, EXPERTS as usize] {
                for kind in [LinearKind::Exact, LinearKind::Plain] {
                    let routing = Routing { used, normalise };
                    let (layer, weights, router) = layer(kind, routing);
                    let x = Tensor::randn([37, HIDDEN], (kind.activation_kind(), Device::Cpu));
                    let residual = Tensor::randn([37, HIDDEN], (kind.activation_kind(), Device::Cpu));
                    let expected = defined(&x, &weights, &router, routing) + residual.to_kind(Kind::Float);
                    let difference =
                        |y: &Tensor| (y.to_kind(Kind::Float) - &expected).abs().max().double_value(&[]);
                    let y = layer.sum_add(&x, &residual).unwrap();
                    assert_eq!(y.kind(), residual.kind());
                    let any = layer.sum_any(&x, &layer.routing.calls(&logits(&x, &router), EXPERTS as usize));
                    let any = any.unwrap() + residual.to_kind(Kind::Float);
                    // Half a unit in the last place of bf16's 8 bits at values around 4, twice.
                    let bound = if kind == LinearKind::Exact { 1e-5 } else { 0.03 };
                    for (which, y) in [("slices", y), ("index_add", any)] {
                        let difference = difference(&y);
                        assert!(difference < bound, "{which} {kind:?} {routing:?}: {difference}");
                    }
                }
            }
        }
    }

    fn logits(x: &Tensor, router: &Tensor) -> Vec<f32> {
        let logits = x.to_kind(Kind::Float).linear(router, None::<&Tensor>);
        Vec::try_from(logits.view([-1])).unwrap()
    }

    #[test]
    fn an_exact_row_has_the_same_bits_in_any_company() {
        tch::set_num_threads(1);
        let _mode = InferenceMode::enter().unwrap();
        let (layer, _, _) = layer(LinearKind::Exact, Routing { used: 2, normalise: true });
        let x = Tensor::randn([53, HIDDEN], (Kind::Float, Device::Cpu));
        let of = |x: &Tensor| layer.sum_add(x, &x.zeros_like()).unwrap();
        let alone: Vec<Tensor> = (0..53).map(|row| of(&x.narrow(0, row, 1))).collect();
        for (start, rows) in [(0, 53), (0, 2), (5, 16), (5, 17), (20, 33), (52, 1)] {
            let together = of(&x.narrow(0, start, rows));
            for row in 0..rows {
                assert_eq!(
                    together.narrow(0, row, 1),
                    alone[(start + row) as usize],
                    "row {row} of {rows} from {start}"
                );
            }
        }
        let turned = of(&x.flip([0]));
        for row in 0..53 {
            assert_eq!(turned.narrow(0, 52 - row, 1), alone[row as usize], "row {row} in turned order");
        }
    }

    #[test]
    fn only_chosen_experts_are_called_and_each_once() {
        let routing = Routing { used: 2, normalise: true };
        let logits = [0.0, 5.0, 1.0, 5.0, /* row 1 */ 9.0, -1.0, -2.0, 9.5];
        let calls = routing.calls(&logits, 4);
        let shape: Vec<_> = calls.iter().map(|call| (call.expert, call.rows.clone())).collect();
        assert_eq!(shape, [(0, vec![1]), (1, vec![0]), (3, vec![0, 1])]);
        assert_eq!(calls[1].weights, [0.5]);
        assert!((calls[0].weights[0] + calls[2].weights[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn equal_logits_choose_the_first_and_nan_panics_nowhere() {
        let routing = Routing { used: 2, normalise: false };
        let experts =
            |logits: &[f32]| routing.choose(logits).into_iter().map(|(expert, _)| expert).collect::<Vec<_>>();
        assert_eq!(experts(&[1.0; 5]), [0, 1]);
        assert_eq!(routing.choose(&[1.0; 5])[0].1, 0.2);
        assert_eq!(experts(&[f32::NAN; 3]).len(), 2);
        assert_eq!(experts(&[f32::INFINITY, 0.0, f32::NEG_INFINITY]), [0, 1]);
        assert_eq!(experts(&[0.0, f32::NAN, 1.0]).len(), 2);
    }
}
