//! A price on everything that a template does to strings and lists.
//!
//! The engine counts instructions only: one that doubles a string, or searches a long one, costs as much as one that
//! adds two numbers. So each expensive instruction gets a companion in front of it, which charges a budget by the
//! size of the operands and refuses results that are too long. Owns the rewriting and the prices; what the
//! methods of Python's strings cost is charged here as well, before they run.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// What is left to spend in one rendering.
#[derive(Debug)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(BUDGET))
    }

    /// Pays, or ends the rendering.
    pub(super) fn pay(&self, units: u64) -> Result<(), Error> {
        let paid = |left: u64| left.checked_sub(units);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::from(ErrorKind::OutOfFuel)),
        }
    }

    /// Pays for everything that is reachable from a value, as often as it is reached. Gives what was paid.
    pub(super) fn pay_deep(&self, value: &Value) -> Result<u64, Error> {
        self.pay_down(value, MAX_DEPTH)
    }

    fn pay_down(&self, value: &Value, depth: usize) -> Result<u64, Error> {
        let depth = depth.checked_sub(1).ok_or_else(|| refused("values are nested too deeply"))?;
        let mut paid = match value.kind() {
            ValueKind::String | ValueKind::Bytes => length(value),
            _ => ITEM,
        };
        self.pay(paid)?;
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            for item in value.try_iter()? {
                paid += self.pay_down(&item, depth)?;
                if value.kind() == ValueKind::Map {
                    paid += self.pay_down(&value.get_item(&item)?, depth)?;
                }
            }
        }
        Ok(paid)
    }

    fn charge(&self, what: &Priced, args: &[Value]) -> Result<(), Error> {
        let mut sum = 0_u64;
        for arg in args {
            sum = sum.saturating_add(length(arg));
        }
        match what {
            Priced::Shallow => self.pay(sum),
            Priced::Add if args.iter().all(|arg| arg.kind() == ValueKind::String) => self.text(sum),
            Priced::Add => self.pay(sum.saturating_mul(ITEM)),
            Priced::Concat => {
                let mut sum = 0;
                for arg in args {
                    sum += self.pay_deep(arg)?;
                }
                self.text(sum)
            }
            Priced::Repeat => {
                let times = |arg: &Value| arg.as_i64().and_then(|times| u64::try_from(times).ok());
                match (args.first(), args.get(1)) {
                    (Some(a), Some(b)) if a.is_number() != b.is_number() => {
                        let (text, number) = if a.is_number() { (b, a) } else { (a, b) };
                        self.text(length(text).saturating_mul(times(number).unwrap_or(0)))
                    }
                    _ => Ok(()),
                }
            }
            Priced::Compare => {
                if args.iter().all(|arg| arg.kind() == ValueKind::String) {
                    return self.pay(args.iter().map(length).min().unwrap_or(0));
                }
                args.iter().try_for_each(|arg| self.pay_deep(arg).map(drop))
            }
            Priced::Deep => args.iter().try_for_each(|arg| self.pay_deep(arg).map(drop)),
            Priced::ForEach => {
                if args.iter().filter_map(Value::as_str).any(|name| GROWING.contains(&name)) {
                    return Err(refused("a filter that makes long texts can't be mapped"));
                }
                let each = args
                    .iter()
                    .skip(1)
                    .try_fold(1, |sum, arg| Ok::<u64, Error>(sum + self.pay_deep(arg)?))?;
                let items =
                    args.first().map_or(Ok(0), |items| self.pay_deep(items).map(|_| length(items)))?;
                self.pay(each.saturating_mul(items))
            }
            Priced::Growing(name) => self.growing(name, args),
        }
    }

    /// Filters and methods whose result may be far longer than what they are given.
    fn growing(&self, name: &str, args: &[Value]) -> Result<(), Error> {
        self.charge(&Priced::Deep, args)?;
        let length_of = |at: usize| args.get(at).map_or(0, length);
        let receiver = length_of(0).saturating_add(1);
        match name {
            "replace" => {
                let hits = receiver.div_ceil(length_of(1).max(1));
                self.text(hits.saturating_mul(length_of(2)).saturating_add(receiver))
            }
            "join" => {
                // Method: separator.join(items); filter: items|join(separator).
                self.text(receiver.saturating_mul(length_of(1).saturating_add(1)))
            }
            "split" | "rsplit" | "splitlines" | "lines" | "list" => self.pay(receiver.saturating_mul(ITEM)),
            "strip" | "lstrip" | "rstrip" | "trim" => self.pay(receiver.saturating_mul(length_of(1).max(1))),
            _ => {
                let largest = args.iter().filter_map(Value::as_i64).map(i64::unsigned_abs).max().unwrap_or(1);
                self.text(receiver.saturating_mul(largest.saturating_add(8)))
            }
        }
    }

    /// Pays for a text that is about to be made, if it may be that long.
    fn text(&self, bytes: u64) -> Result<(), Error> {
        if bytes > MAX_TEXT_BYTES {
            return Err(refused("a text gets too long"));
        }
        self.pay(bytes)
    }
}

/// How an instruction is charged.
#[derive(Clone, Copy, Debug)]
enum Priced {
    Shallow,
    Add,
    Concat,
    Repeat,
    Compare,
    Deep,
    ForEach,
    Growing(&'static str),
}

/// Charges for operands and hands them back. No plain function: those take keyword arguments apart.
#[derive(Debug)]
struct Companion {
    priced: Priced,
    meter: Arc<Meter>,
}

impl Object for Companion {
    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.meter.charge(&self.priced, args)?;
        // The first of the unpacked ends on top.
        Ok(Value::from(args.iter().rev().cloned().collect::<Vec<Value>>()))
    }
}

/// Adds the companions.
pub(super) fn install(environment: &mut Environment<'_>, meter: &Arc<Meter>) {
    let fixed = [
        Priced::Shallow,
        Priced::Add,
        Priced::Concat,
        Priced::Repeat,
        Priced::Compare,
        Priced::Deep,
        Priced::ForEach,
    ];
    for priced in fixed.into_iter().chain(GROWING.iter().map(|name| Priced::Growing(name))) {
        let companion = Companion { priced, meter: meter.clone() };
        environment.add_global(name_of(priced), Value::from_object(companion));
    }
    let paying = meter.clone();
    environment.add_function(OWN, move |value: Value| -> Result<Value, Error> {
        if value.kind() != ValueKind::Iterable {
            return Ok(value);
        }
        paying.pay_deep(&value)?;
        Ok(Value::from(value.try_iter()?.collect::<Vec<Value>>()))
    });
    let paying = meter.clone();
    environment.set_formatter(move |out, state, value| {
        paying.pay_deep(value)?;
        minijinja::escape_formatter(out, state, value)
    });
    environment.add_global(ONE, 1);
}

/// Puts the companions in front of what is expensive. Fails for `f(*list)`, whose operands can't be counted.
pub(super) fn meter(template: &mut CompiledTemplate<'_>) -> Result<(), Error> {
    rewrite(&mut template.instructions)?;
    template.blocks.values_mut().try_for_each(rewrite)
}

fn rewrite(instructions: &mut Instructions<'_>) -> Result<(), Error> {
    let mut old = Vec::new();
    while let Some(slot) = instructions.get_mut(old.len() as u32) {
        let instruction = mem::replace(slot, Instruction::Return);
        let line = instructions.get_line(old.len() as u32).unwrap_or(0);
        old.push((instruction, u16::try_from(line).unwrap_or(u16::MAX)));
    }
    let mut moved = Vec::with_capacity(old.len());
    let mut new = Vec::with_capacity(2 * old.len());
    for (instruction, line) in old {
        moved.push(new.len() as u32);
        if let Instruction::EmitRaw(text) = instruction {
            new.extend([(Instruction::LoadConst(Value::from(text)), line), (Instruction::Emit, line)]);
            continue;
        }
        if let Some((priced, count)) = price(&instruction)? {
            new.push((Instruction::CallFunction(name_of(priced), Some(count)), line));
            new.push((Instruction::UnpackList(usize::from(count)), line));
        }
        let lazy = matches!(instruction, Instruction::Slice | Instruction::ApplyFilter(..));
        new.push((instruction, line));
        if lazy {
            new.push((Instruction::CallFunction(OWN, Some(1)), line));
        }
    }
    moved.push(new.len() as u32);
    let mut rewritten = Instructions::new(instructions.name(), instructions.source());
    for (mut instruction, line) in new {
        if let Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) = &mut instruction
        {
            *target = moved.get(*target as usize).copied().ok_or_else(|| refused("a jump leads nowhere"))?;
        }
        rewritten.add_with_line(instruction, line);
    }
    *instructions = rewritten;
    Ok(())
}

/// The price of an instruction and the number of its operands.
fn price(instruction: &Instruction<'_>) -> Result<Option<(Priced, u16)>, Error> {
    let counted = |count: &Option<u16>| count.ok_or_else(|| refused("argument lists can't be unpacked"));
    let growing =
        |name: &str| GROWING.iter().find(|known| **known == name).map(|known| Priced::Growing(known));
    Ok(Some(match instruction {
        Instruction::Add => (Priced::Add, 2),
        Instruction::Mul => (Priced::Repeat, 2),
        Instruction::StringConcat => (Priced::Concat, 2),
        Instruction::In => (Priced::Deep, 2),
        Instruction::Slice => (Priced::Shallow, 4),
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::CompareAndPreserve(_) => (Priced::Compare, 2),
        Instruction::ApplyFilter(name, count, _) => {
            let priced = match *name {
                "length" | "count" | "first" | "last" | "default" | "d" | "int" | "float" => Priced::Shallow,
                "map" | "select" | "reject" | "selectattr" | "rejectattr" => Priced::ForEach,
                name => growing(name).unwrap_or(Priced::Deep),
            };
            (priced, counted(count)?)
        }
        // With one operand it is a question for the type, but for those that look at each letter.
        Instruction::PerformTest("lower" | "upper", Some(1), _) => (Priced::Shallow, 1),
        Instruction::PerformTest(_, Some(1), _) => return Ok(None),
        Instruction::PerformTest(_, count, _) => (Priced::Deep, counted(count)?),
        Instruction::CallMethod(name, count) => match *name {
            "get" | "items" | "keys" | "values" => (Priced::Shallow, counted(count)?),
            name => (growing(name).unwrap_or(Priced::Deep), counted(count)?),
        },
        Instruction::CallFunction(_, count) | Instruction::CallObject(count) => {
            counted(count)?;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

/// Multiplications of constants are computed by the engine's compiler, before any meter runs: a factor that only
/// the running template knows makes it leave them alone.
pub(super) fn without_constant_products(source: &str, syntax: &SyntaxConfig) -> Result<String, Error> {
    let mut out = String::with_capacity(source.len());
    let (mut done, mut after_value) = (0, false);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        // `*` in front of an argument is no product.
        if matches!(token, Token::Mul) && after_value {
            let end = span.end_offset as usize;
            out.push_str(source.get(done..end).unwrap_or_default());
            out.push(' ');
            out.push_str(ONE);
            out.push_str(" * ");
            done = end;
        }
        after_value = !matches!(token, Token::ParenOpen | Token::Comma);
    }
    out.push_str(source.get(done..).unwrap_or_default());
    Ok(out)
}

/// Bytes of a string, items of a list; what has no length counts as one.
fn length(value: &Value) -> u64 {
    value.as_str().map_or_else(|| value.len().unwrap_or(1), str::len) as u64
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Names that no template can write, so that none can put something else in their place.
fn name_of(priced: Priced) -> &'static str {
    match priced {
        Priced::Shallow => "#shallow",
        Priced::Add => "#add",
        Priced::Concat => "#concat",
        Priced::Repeat => "#repeat",
        Priced::Compare => "#compare",
        Priced::Deep => "#deep",
        Priced::ForEach => "#for each",
        Priced::Growing(name) => {
            let at = GROWING.iter().position(|known| *known == name).unwrap_or(0);
            GROWING_NAMES[at]
        }
    }
}

/// Filters and methods whose result or work may be far larger than what they are given.
const GROWING: [&str; 14] = [
    "replace",
    "join",
    "split",
    "rsplit",
    "splitlines",
    "lines",
    "list",
    "strip",
    "lstrip",
    "rstrip",
    "trim",
    "indent",
    "batch",
    "slice",
];

const GROWING_NAMES: [&str; 14] = [
    "#replace",
    "#join",
    "#split",
    "#rsplit",
    "#splitlines",
    "#lines",
    "#list",
    "#strip",
    "#lstrip",
    "#rstrip",
    "#trim",
    "#indent",
    "#batch",
    "#slice",
];

const OWN: &str = "#own";

/// A name that a template could write, but has no reason to: it only slows its own products down.
const ONE: &str = "__layerlane_one";

/// Bytes and items touched in one rendering. A prompt that fills the longest context has some 1 MB and is touched a
/// few times; spending all of it takes some 100 ms.
const BUDGET: u64 = 64 << 20;

/// What an item of a list costs, in bytes: about what it takes in memory.
const ITEM: u64 = 16;

/// As much as fills the longest context.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Far deeper than any tool schema.
const MAX_DEPTH: usize = 64;
