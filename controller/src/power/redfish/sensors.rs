//! What a machine measures. Of the two ways that Redfish has for it the older one is taken where it is
//! there: `Thermal` and `Power` are two requests for all of it, the newer one (DSP0268 from 2020.4 on:
//! `Sensors`, `ThermalSubsystem`, `PowerSubsystem`) is one for each sensor, unless the service expands.

use haas_api::hardware::{Level, Sensor, tame};
use serde_json::Value;

use super::{
    fault::RedfishFault,
    parts::{Ask, is_there, linked, parts, path, text},
};

/// Chassis of one system that are looked at, and sensors of all of them.
const CHASSIS_MAX: usize = 8;
const SENSORS_MAX: usize = 512;
/// More watts than a machine draws: what is above is no reading.
const WATTS_MAX: f64 = 1e6;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) sensors: Vec<Sensor>,
    /// What the machine draws.
    pub(super) watts: Option<u32>,
}

/// The chassis that a system is in: those that it names, or the only one that there is.
pub(super) async fn chassis(
    ask: &mut impl Ask,
    system: &Value,
) -> Result<Vec<Value>, RedfishFault> {
    let named = system.pointer("/Links/Chassis").and_then(Value::as_array);
    let mut chassis = Vec::new();
    for reference in named.into_iter().flatten().take(CHASSIS_MAX) {
        chassis.extend(linked(ask, reference).await?);
    }
    if chassis.is_empty() {
        let root = ask.root().await?.body;
        let all = parts(ask, &root["Chassis"]).await?;
        // Of several nobody says whose they are.
        if all.len() == 1 {
            return Ok(all);
        }
    }
    Ok(chassis)
}

/// Reads all that the chassis measure.
pub(super) async fn read(ask: &mut impl Ask, chassis: &[Value]) -> Result<Measured, RedfishFault> {
    let mut measured = Measured::default();
    for one in chassis {
        read_one(ask, one, &mut measured).await?;
    }
    measured.sensors.truncate(SENSORS_MAX);
    Ok(measured)
}

async fn read_one(
    ask: &mut impl Ask,
    chassis: &Value,
    measured: &mut Measured,
) -> Result<(), RedfishFault> {
    let thermal = linked(ask, &chassis["Thermal"]).await?;
    let power = linked(ask, &chassis["Power"]).await?;
    if let Some(thermal) = &thermal {
        add(measured, &thermal["Temperatures"], |part| {
            old_sensor(part, "Temperature", &part["ReadingCelsius"], "°C")
        });
        add(measured, &thermal["Fans"], |part| {
            old_sensor(part, "Fan", &part["Reading"], unit(part))
        });
    }
    if let Some(power) = &power {
        add(measured, &power["Voltages"], |part| {
            old_sensor(part, "Voltage", &part["ReadingVolts"], "V")
        });
        add(measured, &power["PowerSupplies"], |part| state(part, "Power Supply"));
        add(measured, &power["PowerControl"], |part| {
            old_sensor(part, "Power", &part["PowerConsumedWatts"], "W")
        });
        // The first is of the whole chassis, others are of its parts.
        let whole = power.pointer("/PowerControl/0/PowerConsumedWatts").unwrap_or(&Value::Null);
        measured.watts = measured.watts.or(watts(whole));
    }
    if thermal.is_none() && power.is_none() {
        let sensors = parts(ask, &chassis["Sensors"]).await?;
        measured.sensors.extend(sensors.iter().filter_map(new_sensor));
        if let Some(thermal) = linked(ask, &chassis["ThermalSubsystem"]).await? {
            let fans = parts(ask, &thermal["Fans"]).await?;
            measured.sensors.extend(fans.iter().filter_map(|part| state(part, "Fan")));
        }
        if let Some(power) = linked(ask, &chassis["PowerSubsystem"]).await? {
            let supplies = parts(ask, &power["PowerSupplies"]).await?;
            measured.sensors.extend(supplies.iter().filter_map(|part| state(part, "Power Supply")));
        }
    }
    if measured.watts.is_none()
        && let Some(metrics) = linked(ask, &chassis["EnvironmentMetrics"]).await?
    {
        measured.watts = watts(&metrics["PowerWatts"]["Reading"]);
    }
    Ok(())
}

fn add(measured: &mut Measured, list: &Value, sensor: impl Fn(&Value) -> Option<Sensor>) {
    let list = list.as_array().into_iter().flatten();
    measured.sensors.extend(list.filter(|part| is_there(part)).filter_map(sensor));
}

/// An entry of `Thermal` or `Power`.
fn old_sensor(part: &Value, kind: &str, reading: &Value, unit: &str) -> Option<Sensor> {
    let bounds = [
        ("above upper non-recoverable", &part["UpperThresholdFatal"]),
        ("above upper critical", &part["UpperThresholdCritical"]),
        ("above upper non-critical", &part["UpperThresholdNonCritical"]),
        ("below lower non-recoverable", &part["LowerThresholdFatal"]),
        ("below lower critical", &part["LowerThresholdCritical"]),
        ("below lower non-critical", &part["LowerThresholdNonCritical"]),
    ];
    sensor(part, kind, reading, unit, &bounds)
}

/// A resource of the schema Sensor.
fn new_sensor(part: &Value) -> Option<Sensor> {
    let kind = match part["ReadingType"].as_str() {
        Some("Rotational") => "Fan".to_owned(),
        Some("Power") => "Power".to_owned(),
        Some(_) => text(&part["ReadingType"])?,
        None => "Other".to_owned(),
    };
    let at = |name: &str| &part["Thresholds"][name]["Reading"];
    let bounds = [
        ("above upper non-recoverable", at("UpperFatal")),
        ("above upper critical", at("UpperCritical")),
        ("above upper non-critical", at("UpperCaution")),
        ("below lower non-recoverable", at("LowerFatal")),
        ("below lower critical", at("LowerCritical")),
        ("below lower non-critical", at("LowerCaution")),
    ];
    sensor(part, &kind, &part["Reading"], unit(part), &bounds)
}

/// `bounds`: what crossing each means; the worst above and below come first.
fn sensor(
    part: &Value,
    kind: &str,
    reading: &Value,
    unit: &str,
    bounds: &[(&'static str, &Value)],
) -> Option<Sensor> {
    let value = if is_on(part) { reading.as_f64() } else { None };
    // Some give 0 for an upper threshold that there is not.
    let crossed = |(word, bound): &(&'static str, &Value)| match (value, bound.as_f64()) {
        (Some(value), Some(bound)) if word.starts_with("above") => bound > 0.0 && value >= bound,
        (Some(value), Some(bound)) => value <= bound,
        _ => false,
    };
    let crossed = bounds.iter().find(|bound| crossed(bound)).map(|(word, _)| *word);
    // What it says of its own health is believed before what its numbers would mean.
    let level = match (level(part), crossed) {
        (Level::Unknown, Some(word)) if word.ends_with("non-critical") => Level::Warning,
        (Level::Unknown, Some(_)) => Level::Critical,
        (Level::Unknown, None) if value.is_some() => Level::Ok,
        (level, _) => level,
    };
    let states = match crossed {
        Some(word) if level > Level::Ok => vec![word.to_owned()],
        Some(_) | None => health_word(part).into_iter().collect(),
    };
    Some(Sensor {
        name: name(part)?,
        kind: tame(kind),
        value,
        unit: if value.is_some() { unit.to_owned() } else { String::new() },
        level,
        states,
    })
}

/// A part that is there and well, or not.
fn state(part: &Value, kind: &str) -> Option<Sensor> {
    Some(Sensor {
        name: name(part)?,
        kind: kind.to_owned(),
        value: None,
        unit: String::new(),
        level: level(part),
        states: health_word(part).into_iter().collect(),
    })
}

/// The worst that a resource says of itself and of what hangs on it (Resource.Status).
pub(super) fn level(part: &Value) -> Level {
    let of = |word: &Value| match word.as_str() {
        Some("OK") => Level::Ok,
        Some("Warning") => Level::Warning,
        Some("Critical") => Level::Critical,
        Some(_) | None => Level::Unknown,
    };
    of(&part["Status"]["Health"]).max(of(&part["Status"]["HealthRollup"]))
}

/// Its state in words, where that is not simply that it works.
fn health_word(part: &Value) -> Option<String> {
    let state = text(&part["Status"]["State"]).filter(|state| state != "Enabled");
    let health = level(part);
    match (state, health > Level::Ok) {
        (Some(state), _) => Some(tame(&state)),
        (None, true) => Some(format!("says {health}")),
        (None, false) => None,
    }
}

/// What is switched off, or stands by, measures nothing.
fn is_on(part: &Value) -> bool {
    let off = ["Disabled", "StandbyOffline", "UnavailableOffline", "Absent"];
    !part["Status"]["State"].as_str().is_some_and(|state| off.contains(&state))
}

fn name(part: &Value) -> Option<String> {
    let id = || path(part).and_then(|path| path.rsplit('/').next().map(str::to_owned));
    // Fans had another word for it once (Thermal 1.0).
    let name = text(&part["Name"]).or_else(|| text(&part["FanName"]));
    name.or_else(|| text(&part["MemberId"])).or_else(id).map(|name| tame(&name))
}

fn unit(part: &Value) -> &str {
    match part["ReadingUnits"].as_str() {
        Some("Cel") => "°C",
        Some("Percent") => "%",
        Some(unit) if unit.len() <= 16 && !unit.contains(char::is_control) => unit,
        Some(_) | None => "",
    }
}

fn watts(reading: &Value) -> Option<u32> {
    let watts = reading.as_f64().filter(|watts| (0.0..WATTS_MAX).contains(watts))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and a million"
    )]
    Some(watts.round() as u32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn temperature(part: Value) -> (Option<f64>, Level, Vec<String>) {
        let sensor = old_sensor(&part, "Temperature", &part["ReadingCelsius"], "°C").unwrap();
        (sensor.value, sensor.level, sensor.states)
    }

    #[test]
    fn what_a_sensor_says_of_itself_is_believed_and_else_its_thresholds() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        for (part, value, level, states) in [
            (json!({ "Name": "T", "ReadingCelsius": 40 }), Some(40.0), Level::Ok, words(&[])),
            (
                json!({ "Name": "T", "ReadingCelsius": 95, "UpperThresholdCritical": 90,
                    "UpperThresholdNonCritical": 80 }),
                Some(95.0),
                Level::Critical,
                words(&["above upper critical"]),
            ),
            (
                json!({ "Name": "T", "ReadingCelsius": 85, "UpperThresholdCritical": 90,
                    "UpperThresholdNonCritical": 80, "Status": { "Health": "OK" } }),
                Some(85.0),
                Level::Ok,
                words(&[]),
            ),
            // A threshold of 0 is none.
            (
                json!({ "Name": "T", "ReadingCelsius": 40, "UpperThresholdCritical": 0 }),
                Some(40.0),
                Level::Ok,
                words(&[]),
            ),
            (
                json!({ "Name": "T", "ReadingCelsius": 0, "Status": { "State": "Disabled" } }),
                None,
                Level::Unknown,
                words(&["Disabled"]),
            ),
            (
                json!({ "Name": "T", "ReadingCelsius": "40", "Status": { "Health": "Warning" } }),
                None,
                Level::Warning,
                words(&["says warning"]),
            ),
        ] {
            assert_eq!(temperature(part.clone()), (value, level, states), "{part}");
        }
    }

    #[test]
    fn watts_are_numbers_that_a_machine_may_draw() {
        for (told, is) in [
            (json!(212), Some(212)),
            (json!(212.6), Some(213)),
            (json!(0), Some(0)),
            (json!(-1), None),
            (json!(1e9), None),
            (json!("212"), None),
            (Value::Null, None),
        ] {
            assert_eq!(watts(&told), is, "{told}");
        }
    }
}
