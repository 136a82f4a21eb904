//! The layers of one import: unpacked side by side, completed one after the other.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Progress, Request, notes};
use crate::error::{Doing, Error, Result};
use crate::image::merged::Merged;
use crate::image::source::{Compression, LayerBlob, SourceImage};
use crate::image::store::{self, Claim, ImageStore, LayerId, LayerRecord, Work};
use crate::image::unpack::{self, How, Unpacked, Unsettled};
use crate::image::{Digest, flatten};
use crate::sys::signal::Signals;

/// How often one looks whether the import is to end, and tells how far it is.
const MOMENT: Duration = Duration::from_millis(100);
/// As many layers are unpacked at a time as there are processors, and no more than this.
const MOST: usize = 4;
/// What the decompressors of all layers may have together, in bytes, unless one alone may have more.
const WINDOWS: u64 = 32 << 20;
/// The unpacker keeps its buffers elsewhere.
const STACK: usize = 512 << 10;

/// What is known of the machine.
pub(super) struct Host {
    /// This boot.
    pub(super) boot_id: String,
    /// How many processors this process may use.
    pub(super) processors: usize,
}

/// A layer that is in the store.
pub(super) struct Done {
    pub(super) id: LayerId,
    pub(super) record: LayerRecord,
    /// It was there already.
    pub(super) reused: bool,
}

/// A layer as a thread leaves it.
enum Step {
    There(LayerId, Box<LayerRecord>),
    Fresh(Box<Fresh>),
}

/// A layer that is unpacked, and not complete.
struct Fresh {
    work: Work,
    unpacked: Unpacked,
    diff_id: Digest,
    tar_size: u64,
}

/// What the threads share.
struct Job<'a> {
    store: &'a ImageStore,
    request: &'a Request,
    host: &'a Host,
    layers: &'a [LayerBlob],
    /// The chain ids; `None` where they are not known before a layer was read.
    chains: Vec<Option<Digest>>,
    read: Vec<Arc<AtomicU64>>,
    /// All are to end.
    stop: AtomicBool,
}

/// Has all layers of `image` in the store, the bottom first.
pub(super) fn unpack_all(
    store: &ImageStore,
    request: &Request,
    image: &SourceImage,
    host: &Host,
    progress: &mut dyn Progress,
) -> Result<Vec<Done>> {
    let layers = &image.layers;
    let job = Job {
        store,
        request,
        host,
        layers,
        chains: chains(layers),
        read: layers.iter().map(|_| Arc::default()).collect(),
        stop: AtomicBool::new(false),
    };
    let sizes = layers.iter().map(|layer| layer.size);
    let told: Vec<_> = sizes.zip(job.read.iter().cloned()).collect();
    progress.begin(&told);
    let at_once = at_once(layers, request.limits.window).min(host.processors);
    // Those that ask for the end are looked at between the layers; all that is in tmp/ is removed then.
    let signals = Signals::block_ending().doing(|| "cannot block signals".to_owned())?;
    let (give, take) = channel();
    let (send, receive) = channel();
    let take = Mutex::new(take);
    let done = std::thread::scope(|scope| {
        let threads: std::io::Result<Vec<_>> = (0..at_once)
            .map(|_| {
                let (job, take, send) = (&job, &take, send.clone());
                let thread = std::thread::Builder::new().name("unpack".to_owned());
                let thread = thread.stack_size(STACK);
                thread.spawn_scoped(scope, move || job.serve(take, &send))
            })
            .collect();
        drop(send);
        let done = match threads {
            Ok(_) => job.complete(&give, &receive, &signals, at_once, progress),
            Err(error) => Err(Error::new("cannot start a thread to unpack a layer")
                .because(error)
                .hint("`ulimit -u` limits them")),
        };
        job.stop.store(true, Ordering::Relaxed);
        drop(give);
        done
    });
    // What was unpacked for nothing.
    for (_, step) in receive.try_iter() {
        if let Ok(Step::Fresh(fresh)) = step {
            store.abandon(fresh.work)?;
        }
    }
    done
}

/// The chain ids, as far as the diff ids are known.
fn chains(layers: &[LayerBlob]) -> Vec<Option<Digest>> {
    let mut below: Option<Digest> = None;
    let mut chains = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let known = number == 0 || below.is_some();
        let diff = layer.diff_id.as_ref().filter(|_| known);
        below = diff.map(|diff| Digest::chain(below.as_ref(), diff));
        chains.push(below.clone());
    }
    chains
}

/// How many layers are unpacked at a time: memory is limited, and the decompressors of some need much.
fn at_once(layers: &[LayerBlob], window: u64) -> usize {
    let is_large =
        |layer: &LayerBlob| matches!(layer.compression(), Compression::Zstd | Compression::Xz);
    let fit = if layers.iter().any(is_large) {
        usize::try_from(WINDOWS / window.max(1)).unwrap_or(MOST)
    } else {
        MOST
    };
    fit.min(MOST).min(layers.len()).max(1)
}

impl Job<'_> {
    /// A thread: unpacks the layers that it is given, until there are no more.
    fn serve(&self, take: &Mutex<Receiver<usize>>, send: &Sender<(usize, Result<Step>)>) {
        loop {
            let next = match take.lock() {
                Ok(take) => take.recv(),
                Err(_) => return,
            };
            let Ok(number) = next else {
                return;
            };
            let step = self.unpack(number);
            let failed = step.is_err();
            // Nobody receives when all is over.
            let over = send.send((number, step)).is_err();
            if failed || over {
                // Only now: the first error is to be the one that counts.
                self.stop.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Gives the layers out, and completes them in the order of the chain: a layer needs those below it.
    fn complete(
        &self,
        give: &Sender<usize>,
        receive: &Receiver<(usize, Result<Step>)>,
        signals: &Signals,
        at_once: usize,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Done>> {
        let mut done: Vec<Done> = Vec::new();
        let mut waiting = BTreeMap::new();
        let mut given = 0;
        let ended = loop {
            // What waits to be completed needs memory, too.
            while given < self.layers.len().min(done.len() + at_once + 1) {
                if give.send(given).is_err() {
                    break;
                }
                given += 1;
            }
            if done.len() == self.layers.len() {
                break Ok(());
            }
            match receive.recv_timeout(MOMENT) {
                Ok((number, Ok(step))) => drop(waiting.insert(number, step)),
                Ok((_, Err(error))) => break Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(Error::new("the threads that unpack layers died"));
                }
            }
            if let Err(error) = interrupted(signals) {
                break Err(error);
            }
            match self.complete_waiting(&mut done, &mut waiting, progress) {
                Ok(()) => progress.tick(),
                Err(error) => break Err(error),
            }
        };
        self.stop.store(true, Ordering::Relaxed);
        let Err(error) = ended else {
            return Ok(done);
        };
        let mut left = Vec::new();
        for step in waiting.into_values() {
            if let Step::Fresh(fresh) = step {
                left.extend(self.store.abandon(fresh.work).err());
            }
        }
        Err(left
            .into_iter()
            .fold(error, |error, left| error.hint(left.message())))
    }

    fn complete_waiting(
        &self,
        done: &mut Vec<Done>,
        waiting: &mut BTreeMap<usize, Step>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        while let Some(step) = waiting.remove(&done.len()) {
            let number = done.len();
            let next = match step {
                Step::There(id, record) => Done {
                    id,
                    record: *record,
                    reused: true,
                },
                Step::Fresh(fresh) => self.publish(*fresh, done).map_err(|e| self.of(number, e))?,
            };
            progress.done(number, &next.record, next.reused);
            done.push(next);
        }
        Ok(())
    }

    /// Completes a layer upon those below it, and gives it its place.
    fn publish(&self, fresh: Fresh, below: &[Done]) -> Result<Done> {
        let Fresh {
            work,
            unpacked,
            diff_id,
            tar_size,
        } = fresh;
        let chain = Digest::chain(below.last().map(|layer| &layer.record.chain), &diff_id);
        let settled = self.settle(&work, unpacked, below);
        let record = settled.and_then(|report| {
            let listing = store::list(work.root(), false)
                .doing(|| "cannot look at what was unpacked".to_owned())?;
            Ok(LayerRecord {
                diff_id,
                chain,
                tar_size,
                owners: self.request.owners.clone(),
                boot_id: self.host.boot_id.clone(),
                listing,
                report,
            })
        });
        match record {
            Ok(record) => Ok(Done {
                id: self.store.publish(work, &record)?,
                record,
                reused: false,
            }),
            Err(error) => Err(self.abandoned(work, error)),
        }
    }

    fn settle(&self, work: &Work, unpacked: Unpacked, below: &[Done]) -> Result<unpack::Report> {
        let Unpacked { report, unsettled } = unpacked;
        if !below.is_empty() {
            let topmost_first = below.iter().rev();
            let roots: Result<Vec<_>> = topmost_first
                .map(|layer| self.store.open_layer(&layer.id))
                .collect();
            unpack::settle(
                work.root(),
                unsettled,
                &Merged::new(roots?),
                &self.how(false),
            )?;
        }
        Ok(report)
    }

    fn how(&self, bottom: bool) -> How {
        How {
            owners: self.request.owners.clone(),
            limits: self.request.limits,
            bottom,
        }
    }

    /// The error, with what it is about.
    fn of(&self, number: usize, error: Error) -> Error {
        if self.layers.len() == 1 {
            return error;
        }
        error.within(format!("layer {} of {}", number + 1, self.layers.len()))
    }

    fn abandoned(&self, work: Work, error: Error) -> Error {
        match self.store.abandon(work) {
            Ok(()) => error,
            Err(left) => error
                .hint(left.message())
                .hint("`lodger image gc` tries again"),
        }
    }

    /// Unpacks one layer, unless it is there.
    fn unpack(&self, number: usize) -> Result<Step> {
        let work = match &self.chains[number] {
            None => self.store.begin_unknown()?,
            Some(chain) => {
                let owners = &self.request.owners;
                match self.store.claim(chain, owners, &self.stop)? {
                    Claim::Ours(work) => work,
                    Claim::There(id, record) => {
                        return self.trust(&id, &record).map(|()| Step::There(id, record));
                    }
                }
            }
        };
        match self.fill(number, &work) {
            Ok((unpacked, diff_id, tar_size)) => Ok(Step::Fresh(Box::new(Fresh {
                work,
                unpacked,
                diff_id,
                tar_size,
            }))),
            Err(error) => Err(self.abandoned(work, self.of(number, error))),
        }
    }

    /// Refuses a layer that a power cut has left without its content.
    fn trust(&self, id: &LayerId, record: &LayerRecord) -> Result<()> {
        if record.boot_id == self.host.boot_id {
            return Ok(());
        }
        match store::verify::layer(self.store, id) {
            store::verify::Finding::Damaged(how) => Err(Error::new(format!(
                "layer {id} is in the store, but not as it was imported"
            ))
            .because(how)
            .hint("remove the images that have it (`lodger image verify` names them), run `lodger image gc`, and import again")),
            _ => Ok(()),
        }
    }

    fn fill(&self, number: usize, work: &Work) -> Result<(Unpacked, Digest, u64)> {
        let blob = &self.layers[number];
        let how = self.how(number == 0);
        if let Some(directory) = blob.directory() {
            let copied = flatten::copy_tree(directory, work.root(), &how.owners)?;
            let listing = store::list(work.root(), true)
                .doing(|| "cannot look at what was copied".to_owned())?;
            let unpacked = Unpacked {
                report: notes::of_copied(copied),
                unsettled: Unsettled::default(),
            };
            return Ok((unpacked, listing.digest(), listing.bytes));
        }
        let mut stream = blob.open(Arc::clone(&self.read[number]), &self.request.limits)?;
        let watched = Watched {
            stream: &mut stream,
            stop: &self.stop,
        };
        let unpacked = unpack::layer(watched, work.root(), &how);
        // What the decompressor says is told with its hints, which do not get through the reader.
        let unpacked = unpacked.map_err(|error| stream.failure().unwrap_or(error))?;
        let diff_id = stream.verify()?;
        let tar_size = stream.tar_size().unwrap_or(0);
        Ok((unpacked, diff_id, tar_size))
    }
}

/// The error of an import that somebody has ended.
fn interrupted(signals: &Signals) -> Result<()> {
    let signal = signals
        .next()
        .doing(|| "cannot look for signals".to_owned())?;
    let Some(number) = signal else {
        return Ok(());
    };
    let exit = u8::try_from(128 + number).unwrap_or(Error::FAILURE);
    Err(Error::new("the import was interrupted")
        .because(format!("signal {number}"))
        .exit(exit))
}

/// A stream that ends with an error when all are to end.
struct Watched<'a, R> {
    stream: &'a mut R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the import ends"));
        }
        self.stream.read(buffer)
    }
}
