//! How a machine is, by its BMC: sensors, health, power, log, and what is on file about its parts.
//!
//! Power has the way: each request of a look is a call of its own, so that a power call waits for one
//! request at most. Parts that can be replaced are many requests and change seldom; they are read once
//! a day, after everything else, and a BMC that is too slow for that is well all the same.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use haas_api::{
    bmc::Hardware,
    hardware::{BmcInfo, Fru, FruField, Level, Sensor, tame},
};
use serde_json::Value;

use super::{
    super::{BmcReport, HealthDriver, PowerError},
    Redfish,
    fault::RedfishFault,
    fleet::Call,
    hardware,
    http::Answer,
    log, manager,
    parts::{Ask, text},
    sensors::{self, level},
    session::{Login, Root},
};

/// How long one request may take, tries again and a new session included, and all of a look.
const REQUEST: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(300);
/// How long what is on file about parts is not read again.
const PARTS_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Parts that are kept of one machine.
const FRUS_MAX: usize = 64;

/// What is known of the parts of systems, by BMC and the system's name.
#[derive(Debug, Default)]
pub(super) struct Parts(Mutex<HashMap<Machine, (Instant, Vec<Fru>)>>);

/// A BMC, and the name of one of its systems where it has several.
type Machine = (SocketAddr, Option<String>);

impl HealthDriver for Redfish {
    fn look(&self) -> BoxFuture<'_, Result<BmcReport, PowerError>> {
        const TRIED: &str = "read the sensors and the log";
        async move {
            let mut gentle = self.gently(TRIED)?;
            gentle.look().await.map_err(|fault| self.error(TRIED, fault))
        }
        .boxed()
    }

    fn clear_sel(&self) -> BoxFuture<'_, Result<(), PowerError>> {
        const TRIED: &str = "clear the log";
        async move {
            let mut gentle = self.gently(TRIED)?;
            gentle.clear_log().await.map_err(|fault| self.error(TRIED, fault))
        }
        .boxed()
    }
}

impl Redfish {
    fn gently(&self, tried: &'static str) -> Result<Gentle<'_>, PowerError> {
        let login = self.spec.login()?.map_err(|fault| self.error(tried, fault))?;
        Ok(Gentle { redfish: self, login, until: Instant::now() + WHOLE })
    }
}

/// A BMC that is asked behind everybody else.
struct Gentle<'a> {
    redfish: &'a Redfish,
    login: Login,
    until: Instant,
}

impl Ask for Gentle<'_> {
    async fn get(&mut self, path: &str) -> Result<Answer, RedfishFault> {
        let mut call = self.begin().await?;
        let answer = call.link().get(path).await;
        call.end(answer)
    }

    async fn root(&mut self) -> Result<Root, RedfishFault> {
        let mut call = self.begin().await?;
        let root = call.link().root().await;
        call.end(root)
    }

    async fn system(&mut self, name: Option<&str>) -> Result<(String, Answer), RedfishFault> {
        let mut call = self.begin().await?;
        let system = call.link().system(name).await;
        call.end(system)
    }
}

impl Gentle<'_> {
    async fn begin(&self) -> Result<Call, RedfishFault> {
        let now = Instant::now();
        if now >= self.until {
            return Err(RedfishFault::TooSlow(WHOLE));
        }
        self.redfish.fleet.call(self.login.clone(), now + REQUEST).await
    }

    async fn look(&mut self) -> Result<BmcReport, RedfishFault> {
        let redfish = self.redfish;
        let (_, system) = self.system(redfish.spec.system.as_deref()).await?;
        let system = system.body;
        let manager = manager::of(self, &system).await?;
        let chassis = sensors::chassis(self, &system).await?;
        let measured = sensors::read(self, &chassis).await?;
        let sel = match log::service(self, &system, manager.as_ref()).await? {
            Some(service) => log::read(self, &service).await?,
            None => Default::default(),
        };
        let root = self.root().await?.body;
        let mut frus = vec![machine(&system)];
        frus.extend(chassis.iter().map(|chassis| fru("chassis", chassis, "chassis")));
        frus.extend(self.parts().await);
        frus.retain(|fru| !fru.fields.is_empty());
        frus.truncate(FRUS_MAX);
        let mut sensors = overall(&system, manager.as_ref());
        sensors.extend(measured.sensors);
        let info = BmcInfo { frus, ..info(&root, &system, manager.as_ref()) };
        Ok(BmcReport { info, sensors, watts: measured.watts, sel })
    }

    /// The parts as they were read today; what cannot be read is tried again tomorrow.
    async fn parts(&mut self) -> Vec<Fru> {
        let redfish = self.redfish;
        let key = (redfish.spec.bmc(), redfish.spec.system.clone());
        let known = {
            let known = redfish.fleet.parts.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&key).cloned()
        };
        if let Some((read_at, frus)) = &known
            && read_at.elapsed() < PARTS_AGE
        {
            return frus.clone();
        }
        let frus = match hardware::read(self, redfish.spec.system.as_deref()).await {
            Ok(hardware) => parts(&hardware),
            Err(fault) => {
                tracing::info!(bmc = %key.0, error = %fault, "a BMC's list of parts cannot be read");
                known.map(|(_, frus)| frus).unwrap_or_default()
            }
        };
        let mut known = redfish.fleet.parts.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, (Instant::now(), frus.clone()));
        frus
    }

    async fn clear_log(&mut self) -> Result<(), RedfishFault> {
        let (_, system) = self.system(self.redfish.spec.system.as_deref()).await?;
        let manager = manager::of(self, &system.body).await?;
        let service = log::service(self, &system.body, manager.as_ref()).await?;
        let Some((path, body)) = service.as_ref().and_then(log::clearing) else {
            let offered = vec!["nothing".to_owned()];
            return Err(RedfishFault::NotOffered { wanted: "to clear its log", offered });
        };
        let mut call = self.begin().await?;
        let outcome = call.link().order(&path, body).await;
        call.end(outcome)
    }
}

fn info(root: &Value, system: &Value, manager: Option<&Value>) -> BmcInfo {
    let version = text(&root["RedfishVersion"]).unwrap_or_default();
    let of = |key: &str| manager.and_then(|manager| text(&manager[key]));
    let vendor = text(&root["Vendor"]).or_else(|| of("Manufacturer"));
    BmcInfo {
        protocol: format!("Redfish {version}").trim_end().to_owned(),
        firmware: of("FirmwareVersion").map(|text| tame(&text)),
        vendor: vendor.or_else(|| text(&system["Manufacturer"])).map(|text| tame(&text)),
        product: of("Model").or_else(|| text(&root["Product"])).map(|text| tame(&text)),
        frus: Vec::new(),
    }
}

/// What the BMC says of the machine as a whole, and of parts that it sums up.
fn overall(system: &Value, manager: Option<&Value>) -> Vec<Sensor> {
    let parts = [
        ("System", "System", Some(system)),
        ("Processors", "Processor", Some(&system["ProcessorSummary"])),
        ("Memory", "Memory", Some(&system["MemorySummary"])),
        ("BMC", "Management Controller", manager),
    ];
    let known = parts.into_iter().filter_map(|(name, kind, part)| Some((name, kind, level(part?))));
    let sensor = |(name, kind, level): (&str, &str, Level)| Sensor {
        name: name.to_owned(),
        kind: kind.to_owned(),
        value: None,
        unit: String::new(),
        level,
        states: if level > Level::Ok { vec![format!("says {level}")] } else { Vec::new() },
    };
    known.filter(|(_, _, level)| *level > Level::Unknown).map(sensor).collect()
}

fn machine(system: &Value) -> Fru {
    let mut fru = fru("machine", system, "product");
    let more = [("firmware", &system["BiosVersion"]), ("product UUID", &system["UUID"])];
    fru.fields.extend(more.into_iter().filter_map(|(name, value)| field(name, text(value))));
    fru
}

/// What stands in a system or chassis, in the words that IPMI's FRUs have.
fn fru(name: &str, part: &Value, of: &str) -> Fru {
    let fields = [
        ("maker", "Manufacturer"),
        ("name", "Model"),
        ("part", "PartNumber"),
        ("serial", "SerialNumber"),
        ("asset tag", "AssetTag"),
    ];
    let fields =
        fields.iter().filter_map(|(word, key)| field(&format!("{of} {word}"), text(&part[key])));
    Fru { name: name.to_owned(), fields: fields.collect() }
}

fn field(name: &str, value: Option<String>) -> Option<FruField> {
    value.map(|value| FruField { name: name.to_owned(), value: tame(&value) })
}

/// Processors by their models, modules and drives by their serial numbers too.
fn parts(hardware: &Hardware) -> Vec<Fru> {
    let part = |name: &str, fields: &[(&str, &Option<String>)]| Fru {
        name: tame(name),
        fields: fields.iter().filter_map(|(name, value)| field(name, (*value).clone())).collect(),
    };
    let cpus = hardware.cpus.iter().map(|cpu| part(&cpu.socket, &[("model", &cpu.model)]));
    let memory = hardware.memory.iter().map(|module| {
        let (maker, number) = (("maker", &module.manufacturer), ("part", &module.part));
        part(&module.slot, &[maker, number, ("serial", &module.serial)])
    });
    let drives = hardware
        .drives
        .iter()
        .map(|drive| part(&drive.name, &[("model", &drive.model), ("serial", &drive.serial)]));
    cpus.chain(memory).chain(drives).collect()
}
