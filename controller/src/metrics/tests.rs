//! Names after Prometheus' conventions, and series that do not grow with the fleet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::testing::Bench;

/// A metric as it stands in the text.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// Each sample's name with its labels.
    samples: Vec<(String, BTreeMap<String, String>)>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.kind.is_empty(), "{name} is there twice");
            family.kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels =
                labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (key, value) = label.split_once("=\"").expect("a label has a value");
                (key.to_owned(), value.trim_end_matches('"').to_owned())
            });
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let of = of.filter(|of| families.contains_key(*of)).unwrap_or(name);
            let family = families.get_mut(of).unwrap_or_else(|| panic!("no TYPE before {line}"));
            family.samples.push((name.to_owned(), labels.collect()));
        }
    }
    families
}

/// What `promtool check metrics` finds wrong with a name.
fn lint(name: &str, family: &Family) -> Option<&'static str> {
    let words: Vec<&str> = name.split('_').collect();
    let ends = |end: &str| name.ends_with(end);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(word));
    let is_counter = family.kind == "counter";
    if family.help.is_empty() {
        return Some("has no help");
    }
    if name.bytes().any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')) {
        return Some("must be snake_case, without colons");
    }
    if is_counter != ends("_total") {
        return Some("counters, and only they, end in _total");
    }
    if ["_count", "_sum", "_bucket", "_info_total"].iter().any(|end| ends(end)) {
        return Some("has an ending that is a histogram's");
    }
    if has(&["counter", "gauge", "histogram", "summary"]) {
        return Some("has its type in its name");
    }
    let other_units = [
        "ms",
        "milliseconds",
        "us",
        "microseconds",
        "ns",
        "nanoseconds",
        "secs",
        "sec",
        "minutes",
        "hours",
        "days",
        "weeks",
        "kb",
        "kilobytes",
        "kib",
        "mb",
        "megabytes",
        "gb",
        "bits",
        "percent",
        "percents",
        "celcius",
        "fahrenheit",
        "byte",
        "second",
    ];
    if has(&other_units) {
        return Some("has another unit than a base unit");
    }
    if family.kind == "histogram" && !ends("_seconds") {
        return Some("a histogram of time is in seconds");
    }
    let is_histogram = family.kind == "histogram";
    let foreign = |labels: &BTreeMap<String, String>| {
        labels.contains_key("quantile") || (labels.contains_key("le") && !is_histogram)
    };
    family
        .samples
        .iter()
        .any(|(_, labels)| foreign(labels))
        .then_some("has a label that is reserved")
}

async fn scraped(bench: &Bench) -> String {
    text(&bench.context).await.unwrap()
}

#[tokio::test]
async fn names_keep_the_conventions_of_prometheus() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    bench.give_disks().await;
    let hook = json!({ "name": "chat", "url": "http://hooks.example/" });
    assert_eq!(bench.post("/v1/webhooks", hook).await.status, 201);
    METRICS.fault("no-image");
    METRICS.bmc_called("ipmi", "status", true, Duration::from_millis(7));
    let page = include_str!("../../../docs/monitoring.md");
    let text = scraped(&bench).await;
    let families = families(&text);
    for (name, family) in &families {
        assert_eq!(lint(name, family), None, "{name} {family:?}");
        assert!(name.starts_with("haas_") || name.starts_with("process_"), "{name}");
        assert!(!family.samples.is_empty(), "{name} has no sample");
        assert!(page.contains(&format!("`{name}`")), "docs/monitoring.md does not explain {name}");
    }
    assert!(families.len() > 35, "{:?}", families.keys());
    for (name, end) in
        [("haas_apples", "counter"), ("haas_wait_ms", "gauge"), ("haas_x_total", "gauge")]
    {
        let family = Family { help: "h".into(), kind: end.into(), samples: Vec::new() };
        assert!(lint(name, &family).is_some(), "the lint is blind for {name}");
    }
}

#[tokio::test]
async fn no_label_has_what_there_can_be_any_number_of() {
    let bench = Bench::new().await;
    bench.add_nodes(1..=40).await;
    bench.add_image("a").await;
    bench.begin_boot(7).await;
    let known: BTreeSet<&str> = [
        "call", "cause", "code", "digest", "driver", "image", "kind", "le", "method", "outcome",
        "route", "sense", "stage", "state", "status", "version", "webhook",
    ]
    .into();
    let text = scraped(&bench).await;
    for (name, family) in families(&text) {
        for (_, labels) in &family.samples {
            assert!(labels.keys().all(|key| known.contains(key.as_str())), "{name} {labels:?}");
        }
    }
    for unbounded in ["n07", "127.77.0", "alice", "52:54:00"] {
        assert!(!text.contains(unbounded), "{unbounded} is in the metrics");
    }
    // What a node's users can make up is bounded, and what is no word is not repeated at all.
    for number in 0..1_000 {
        METRICS.fault(&format!("made-up-{number}"));
    }
    METRICS.fault("a\"} 1\nhaas_nodes 7");
    let after = families(&scraped(&bench).await);
    let faults = &after["haas_faults_total"].samples;
    assert!(faults.len() <= MOST_WORDS + 1, "{} codes", faults.len());
    let has_other = faults.iter().any(|(_, labels)| labels["code"] == "other");
    assert!(has_other && !after.contains_key("haas_nodes 7"));
}

#[tokio::test]
async fn what_nodes_draw_is_told_of_those_whose_bmcs_were_asked_lately() {
    let bench = Bench::new().await;
    bench.add_nodes([1, 2, 3]).await;
    let hour = 3_600 * crate::model::SECOND;
    for (number, watts, ago) in [(1, Some(212), 0), (2, None, 0), (3, Some(300), hour)] {
        let node = bench.node(number).await;
        let mut tx = bench.context.store.write().await.unwrap();
        let report = crate::power::BmcReport { watts, ..Default::default() };
        tx.set_bmc(&node.id, &report, crate::clock::wall() - ago).await.unwrap();
        tx.commit().await.unwrap();
    }
    let text = scraped(&bench).await;
    for line in [
        "haas_node_power_watts 212",
        "haas_nodes_with_power_reading 1",
        "haas_idle_off_seconds_total 0.0",
        "haas_idle_saved_joules_total 0",
    ] {
        assert!(text.lines().any(|told| told == line), "no {line} in {text}");
    }
}

#[tokio::test]
async fn a_boot_is_counted_and_timed_by_its_stages() {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    let count = |text: &str, series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    };
    let kernel = "haas_boot_stage_duration_seconds_count{stage=\"kernel\"}";
    let ready = "haas_boots_total{outcome=\"ready\"}";
    let before = scraped(&bench).await;
    let attempt = bench.begin_boot(1).await;
    for stage in [BootStage::Kernel, BootStage::Agent, BootStage::Ready] {
        crate::boots::reached(&bench.context, &attempt.id, stage).await.unwrap();
        // Told twice, counted once.
        crate::boots::reached(&bench.context, &attempt.id, stage).await.unwrap();
    }
    let after = scraped(&bench).await;
    // Other tests of this process count too.
    assert!(count(&after, kernel) >= count(&before, kernel) + 1.0);
    assert!(count(&after, ready) >= count(&before, ready) + 1.0);
    let sum = count(&after, "haas_boot_duration_seconds_sum");
    assert!(sum >= count(&before, "haas_boot_duration_seconds_sum"), "{sum}");
}
