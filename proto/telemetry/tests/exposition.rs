//! What `/metrics` gives must be readable by a strict reader of the Prometheus text format 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

use proto_telemetry::{BuildLabels, Registry, buckets, register_build};

#[test]
fn every_kind_of_metric_is_well_formed() {
    let registry = Registry::new();
    register_build(&registry, BuildLabels { program: "router", version: "0.1.0", protocol: "1" }).unwrap();
    registry.counter("demo_tokens_total", "Tokens; quotes \" and\nlines \\ survive.").unwrap().inc();
    let refusals = registry.counter_vec("demo_refusals_total", "Refusals.", &["reason"]).unwrap();
    refusals.with_label_values(&["a \"quoted\"\nline \\"]).inc();
    refusals.with_label_values(&["full"]).inc();
    registry.gauge("demo_sessions", "Sessions.").unwrap().set(-2);
    registry.float_gauge("demo_ratio", "Ratio.").unwrap().set(0.25);
    let seconds = registry.histogram("demo_step_seconds", "Steps.", buckets::SECONDS).unwrap();
    for value in [1e-6, 2e-4, 0.3, 90.0] {
        seconds.observe(value);
    }
    let sizes = registry.histogram_vec("demo_frame_bytes", "Frames.", buckets::BYTES, &["kind"]).unwrap();
    sizes.with_label_values(&["open"]).observe(70.0);

    let text = registry.encode().unwrap();
    let samples = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(samples["demo_tokens_total"], 1.0);
    assert_eq!(samples["demo_step_seconds_count"], 4.0);
    assert_eq!(samples["demo_step_seconds_bucket{le=\"+Inf\"}"], 4.0);
    assert_eq!(samples["demo_step_seconds_bucket{le=\"60\"}"], 3.0);
}

#[test]
fn the_reader_itself_refuses_what_is_malformed() {
    for bad in [
        "demo_total 1\n",
        "# TYPE demo counter\ndemo x\n",
        "# TYPE demo counter\ndemo 1",
        "# TYPE demo counter\ndemo{a=\"1} 1\n",
        "# TYPE demo counter\n# TYPE demo counter\ndemo 1\n",
        "# TYPE demo counter\ndemo 1\ndemo 1\n",
        "# TYPE demo histogram\ndemo_bucket{le=\"+Inf\"} 1\ndemo_count 2\ndemo_sum 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

/// Reads the text format strictly; gives each sample by its name and labels.
fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    if !text.ends_with('\n') {
        return Err("the last line must end".into());
    }
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without kind")?;
            if !["counter", "gauge", "histogram"].contains(&kind) || types.insert(name, kind).is_some() {
                return Err(format!("bad or repeated type: {line}"));
            }
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ').ok_or("HELP without text")?;
        } else {
            let (key, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
            let name = check_sample(key)?;
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|base| types.get(base) == Some(&"histogram"))
                .unwrap_or(name);
            if !types.contains_key(family) {
                return Err(format!("sample before its type: {line}"));
            }
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().map_err(|_| line)? };
            if samples.insert(key.to_owned(), value).is_some() {
                return Err(format!("repeated sample: {line}"));
            }
        }
    }
    check_histograms(&types, &samples)?;
    Ok(samples)
}

/// Checks `name{label="value",..}` and gives the name.
fn check_sample(key: &str) -> Result<&str, String> {
    let (name, labels) = key.split_once('{').map_or((key, None), |(name, rest)| (name, Some(rest)));
    let is_name = |text: &str| {
        !text.is_empty()
            && !text.starts_with(|first: char| first.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !is_name(name) {
        return Err(format!("bad name: {key}"));
    }
    let Some(mut rest) = labels else { return Ok(name) };
    let mut seen = BTreeSet::new();
    while rest != "}" {
        let (label, after) = rest.split_once("=\"").ok_or_else(|| format!("bad label: {key}"))?;
        if !is_name(label) || !seen.insert(label) {
            return Err(format!("bad or repeated label: {key}"));
        }
        let mut escaped = false;
        let end = after
            .char_indices()
            .find_map(|(at, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes.then_some(at)
            })
            .ok_or_else(|| format!("label value does not end: {key}"))?;
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(name)
}

fn check_histograms(types: &BTreeMap<&str, &str>, samples: &BTreeMap<String, f64>) -> Result<(), String> {
    for (name, _) in types.iter().filter(|(_, kind)| **kind == "histogram") {
        let total: f64 = with_prefix(samples, &format!("{name}_count")).sum();
        let infinite: f64 = samples
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{name}_bucket{{")) && key.contains("le=\"+Inf\""))
            .map(|(_, value)| value)
            .sum();
        if total != infinite || with_prefix(samples, &format!("{name}_sum")).next().is_none() {
            return Err(format!("histogram {name}: count {total}, +Inf bucket {infinite}"));
        }
    }
    Ok(())
}

fn with_prefix<'a>(samples: &'a BTreeMap<String, f64>, prefix: &'a str) -> impl Iterator<Item = &'a f64> {
    samples.iter().filter(move |(key, _)| key.starts_with(prefix)).map(|(_, value)| value)
}
