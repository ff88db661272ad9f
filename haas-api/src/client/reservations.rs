//! Reservations, the calendar, queues: one method per route.

use reqwest::{Method, StatusCode};

use super::{Client, ClientError};
use crate::{
    List,
    maintenance::{Maintenance, NewMaintenance},
    names::QueueName,
    queue::{Queue, QueueSpec},
    reservation::{
        Calendar, Explanation, ExtendReservation, NewReservation, Reservation, ReservationPlan,
    },
    usage::Usage,
};

/// What asking for a reservation came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reserved {
    /// It is in the calendar (201).
    Made(Box<Reservation>),
    /// It was a dry run (200): this is what it would come to.
    Plan(ReservationPlan),
}

/// Which part of which calendar.
#[derive(Debug, Clone, Default)]
pub struct CalendarOf<'a> {
    /// The queue; the only one that the caller may use where none is given.
    pub queue: Option<&'a QueueName>,
    /// How far it reaches, in seconds.
    pub span_s: Option<u64>,
    /// Also the next starts for so many nodes,
    pub nodes: Option<u32>,
    /// and so many seconds.
    pub walltime_s: Option<u64>,
}

impl Client {
    /// `POST /v1/reservations`.
    pub async fn reserve(&self, new: &NewReservation) -> Result<Reserved, ClientError> {
        let response = self.call(Method::POST, &["v1", "reservations"], Some(new)).await?;
        match response.status() {
            StatusCode::CREATED => self.json(response).await.map(Reserved::Made),
            _ => self.json(response).await.map(Reserved::Plan),
        }
    }

    /// `GET /v1/reservations`: those that are not over or `all`, as far as they may be seen, or only
    /// one's own.
    pub async fn reservations(
        &self,
        all: bool,
        mine: bool,
    ) -> Result<Vec<Reservation>, ClientError> {
        let mut query = Vec::new();
        query.extend(all.then_some(("all", "true")));
        query.extend(mine.then_some(("mine", "true")));
        Ok(self.get::<List<_>>(&["v1", "reservations"], &query).await?.items)
    }

    /// `GET /v1/reservations/{id}`.
    pub async fn reservation(&self, id: i64) -> Result<Reservation, ClientError> {
        self.get(&["v1", "reservations", &id.to_string()], &[]).await
    }

    /// `POST /v1/reservations/{id}/extend`.
    pub async fn extend_reservation(
        &self,
        id: i64,
        wanted: &ExtendReservation,
    ) -> Result<Reservation, ClientError> {
        self.post(&["v1", "reservations", &id.to_string(), "extend"], wanted).await
    }

    /// `POST /v1/reservations/{id}/release`.
    pub async fn release_reservation(&self, id: i64) -> Result<Reservation, ClientError> {
        self.post(&["v1", "reservations", &id.to_string(), "release"], &()).await
    }

    /// `GET /v1/reservations/{id}/explain`.
    pub async fn explain_reservation(&self, id: i64) -> Result<Explanation, ClientError> {
        self.get(&["v1", "reservations", &id.to_string(), "explain"], &[]).await
    }

    /// `GET /v1/calendar`.
    pub async fn calendar(&self, of: CalendarOf<'_>) -> Result<Calendar, ClientError> {
        let numbers = [
            ("span_s", of.span_s),
            ("nodes", of.nodes.map(u64::from)),
            ("walltime_s", of.walltime_s),
        ];
        let numbers = numbers.map(|(key, value)| (key, value.map(|value| value.to_string())));
        let numbers = numbers.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
        let queue = of.queue.map(|queue| ("queue", queue.as_str()));
        let query: Vec<_> = queue.into_iter().chain(numbers).collect();
        self.get(&["v1", "calendar"], &query).await
    }

    /// `GET /v1/queues`.
    pub async fn queues(&self) -> Result<Vec<Queue>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "queues"], &[]).await?.items)
    }

    /// `POST /v1/queues`.
    pub async fn new_queue(&self, spec: &QueueSpec) -> Result<QueueSpec, ClientError> {
        self.post(&["v1", "queues"], spec).await
    }

    /// `DELETE /v1/queues/{name}`.
    pub async fn remove_queue(&self, name: &QueueName) -> Result<(), ClientError> {
        self.delete(&["v1", "queues", name.as_str()]).await
    }

    /// `GET /v1/maintenance`: the windows that are not over.
    pub async fn maintenance(&self) -> Result<Vec<Maintenance>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "maintenance"], &[]).await?.items)
    }

    /// `POST /v1/maintenance`.
    pub async fn new_maintenance(&self, new: &NewMaintenance) -> Result<Maintenance, ClientError> {
        self.post(&["v1", "maintenance"], new).await
    }

    /// `DELETE /v1/maintenance/{id}`.
    pub async fn remove_maintenance(&self, id: i64) -> Result<(), ClientError> {
        self.delete(&["v1", "maintenance", &id.to_string()]).await
    }

    /// `GET /v1/usage`: between two moments, as the API has them, or until now.
    pub async fn usage(
        &self,
        begin: Option<&str>,
        end: Option<&str>,
    ) -> Result<Vec<Usage>, ClientError> {
        let query = [("begin", begin), ("end", end)];
        let query: Vec<_> = query.into_iter().filter_map(|(key, at)| Some((key, at?))).collect();
        Ok(self.get::<List<_>>(&["v1", "usage"], &query).await?.items)
    }
}
