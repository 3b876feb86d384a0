//! Compensation tasks as workers deal with them: taken on, closed. Where they come from stands in [`ledger`](super::ledger).
//!
//! A worker that takes a task on and dies keeps it until another names it in `instead_of`: whether an effect was undone is not
//! for a lease to say.

use crate::control::Signature;
use crate::home::command::Acknowledge;
use crate::home::ledger::{Conflict, Event, Task, TaskId, TaskState, Verdict};
use crate::home::reply::{Refused, Reply, TaskRefused};
use crate::home::rows::{Draft, Rows};

/// A worker takes tasks on, each by itself: one that is refused does not stand in the way of others.
pub(super) fn acknowledge<R: Rows>(draft: &mut Draft<'_, R>, ask: &Acknowledge) -> Result<Reply, R::Error> {
    let (got, most) = (ask.tasks.len(), draft.context.limits.tasks);
    if got > most {
        return Ok(Reply::Refused(Refused::TooMuch { what: "tasks", got, most }));
    }
    if ask.worker.is_empty() {
        return Ok(Reply::Refused(Refused::Unsigned));
    }
    let mut told = Vec::with_capacity(got);
    for id in &ask.tasks {
        told.push((*id, take(draft, *id, ask)?));
    }
    Ok(Reply::Acknowledged(told))
}

fn take<R: Rows>(draft: &mut Draft<'_, R>, id: TaskId, ask: &Acknowledge) -> Result<Result<(), TaskRefused>, R::Error> {
    let Some(task) = draft.task(id)? else { return Ok(Err(TaskRefused::Unknown)) };
    match &task.state {
        TaskState::Acknowledged { worker, .. } if *worker == ask.worker => return Ok(Ok(())),
        TaskState::Acknowledged { worker, .. } if ask.instead_of.as_ref() != Some(worker) => {
            return Ok(Err(TaskRefused::Taken { worker: worker.clone() }));
        }
        TaskState::Open | TaskState::Acknowledged { .. } => {}
        TaskState::Closed { .. } => return Ok(Err(TaskRefused::Closed)),
        TaskState::Withdrawn { why, .. } => return Ok(Err(TaskRefused::Withdrawn { why: *why })),
    }
    let state = TaskState::Acknowledged { worker: ask.worker.clone(), at: draft.context.now };
    let event = Event::Acknowledged { worker: ask.worker.clone() };
    turn(draft, id, Task { state, ..task }, event)?;
    Ok(Ok(()))
}

/// A task is done. Who did it says so, or anybody if nobody had taken it on.
pub(super) fn close<R: Rows>(
    draft: &mut Draft<'_, R>,
    id: TaskId,
    verdict: Verdict,
    signature: &Signature,
) -> Result<Reply, R::Error> {
    if signature.actor.is_empty() || signature.reason.is_empty() {
        return Ok(Reply::Refused(Refused::Unsigned));
    }
    let refused = |why: TaskRefused| Ok(Reply::Refused(Refused::Task(why)));
    let Some(task) = draft.task(id)? else { return refused(TaskRefused::Unknown) };
    match &task.state {
        TaskState::Closed { verdict: known, signature: by, .. } if *known == verdict && by.actor == signature.actor => {
            return Ok(Reply::Closed);
        }
        TaskState::Acknowledged { worker, .. } if *worker != signature.actor => {
            return refused(TaskRefused::Taken { worker: worker.clone() });
        }
        TaskState::Open | TaskState::Acknowledged { .. } => {}
        TaskState::Closed { .. } => return refused(TaskRefused::Closed),
        TaskState::Withdrawn { why, .. } => return refused(TaskRefused::Withdrawn { why: *why }),
    }
    let state = TaskState::Closed { verdict, signature: signature.clone(), at: draft.context.now };
    turn(draft, id, Task { state, ..task }, Event::Closed(verdict))?;
    Ok(Reply::Closed)
}

fn turn<R: Rows>(draft: &mut Draft<'_, R>, id: TaskId, task: Task, event: Event) -> Result<(), R::Error> {
    let conflict = Conflict { subject: task.subject.clone(), task: id, withdrawn: false };
    let key = task.key.clone();
    draft.put_task(id, Some(task));
    draft.enter(&key, &conflict, event)
}
