//! The machine: made of its parts, run, and stopped.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable as _, SIGRTMIN, register_signal_handler};

use crate::control::Control;
use crate::cpu::{self, Surroundings};
use crate::hypercall::{Host, Synic};
use crate::ports::{Ports, SERIAL_PORTS};
use crate::synic::Controllers;
use crate::{acpi, boot, cpuid, memory, sys};

/// How often the monitor asks a processor to stop.
const KICK: Duration = Duration::from_millis(10);
/// How often the console is written to its file: a file on a slow share would
/// hold the guest up at each line.
const CONSOLE: Duration = Duration::from_millis(200);

/// A machine to be made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kernel (bzImage).
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// Its command line.
    pub command_line: String,
    /// Memory, in MiB.
    pub memory: usize,
    /// Virtual processors.
    pub processors: u8,
    /// It is Hyper-V's guest; otherwise KVM's, without a VMBus.
    pub hyperv: bool,
    /// File that gets what the guest writes to its console.
    pub console: PathBuf,
    /// Longest time that the guest may run.
    pub limit: Duration,
}

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel reported a crash.
    Crashed,
    /// The processor found no way to go on, as after a crash in early boot.
    TripleFault,
    /// The host stopped it.
    Stopped,
    /// Its time was over.
    TimedOut,
}

/// A machine that is ready to run.
pub struct Monitor {
    // In this order: processors, machine, memory.
    vcpus: Vec<VcpuFd>,
    _vm: VmFd,
    memory: GuestMemoryMmap,
    synic: Arc<Controllers>,
    control: Arc<Control>,
    ports: Arc<Ports>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    console: File,
    limit: Duration,
}

/// What the machine's own thread waits for.
enum Event {
    /// A processor has come to an end.
    Ended(Result<Ending>),
    /// Somebody wants the machine to stop.
    Stop,
}

/// Stops a machine, from any thread.
#[derive(Clone)]
pub struct Stop(mpsc::Sender<Event>);

impl Stop {
    /// Stops it. Where it has ended already, nothing happens.
    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }
}

/// Says why a machine cannot run here, if so: it takes a KVM whose processors
/// have a synthetic interrupt controller.
///
/// # Errors
///
/// What is missing.
pub fn supported() -> Result<Kvm> {
    let kvm = Kvm::new().context("/dev/kvm cannot be opened")?;
    ensure!(
        kvm.check_extension(Cap::HypervSynic2),
        "KVM has no SynIC (KVM_CAP_HYPERV_SYNIC2) here"
    );
    Ok(kvm)
}

impl Monitor {
    /// Makes a machine.
    ///
    /// # Errors
    ///
    /// If KVM is not there or refuses something, or a file cannot be read.
    pub fn new(config: &Config) -> Result<Self> {
        ensure!(
            (1..=8).contains(&config.processors),
            "{} processors are not supported",
            config.processors
        );
        let kvm = supported()?;
        let vm = kvm.create_vm().context("KVM makes no machine")?;
        let memory = memory::create(config.memory)?;
        sys::map_memory(&vm, &memory).context("KVM refuses the memory")?;
        vm.set_tss_address(memory::KVM_TSS)?;
        vm.create_irq_chip()
            .context("KVM makes no interrupt controllers")?;

        let entry = boot::load(
            &memory,
            &config.kernel,
            &config.initramfs,
            &config.command_line,
        )?;
        acpi::write(&memory, config.processors, config.hyperv)?;

        let mut vcpus = Vec::new();
        for number in 0..config.processors {
            let vcpu = vm.create_vcpu(u64::from(number))?;
            cpu::enable_synic(&vcpu)?;
            cpuid::set_up(&kvm, &vcpu, number, config)?;
            if number == 0 {
                cpu::set_up(&vcpu, &memory, entry)?;
            }
            vcpus.push(vcpu);
        }
        let synic = Controllers::new(&vm, memory.clone(), config.processors)?;

        let console = File::create(&config.console)
            .with_context(|| format!("{} cannot be made", config.console.display()))?;
        let mut lines = Vec::new();
        for (_, irq) in SERIAL_PORTS {
            let line = EventFd::new(EFD_NONBLOCK)?;
            vm.register_irqfd(&line, irq)?;
            lines.push(line);
        }
        let Ok(lines) = lines.try_into() else {
            bail!("another number of serial ports");
        };
        let control = Arc::new(Control::default());
        let ports = Arc::new(Ports::new(Arc::clone(&control), lines));
        control.connect(Arc::downgrade(&ports));
        Ok(Monitor {
            vcpus,
            _vm: vm,
            memory,
            synic: Arc::new(synic),
            control,
            ports,
            events: mpsc::channel(),
            console,
            limit: config.limit,
        })
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> GuestMemoryMmap {
        self.memory.clone()
    }

    /// The way to the guest's processors.
    #[must_use]
    pub fn synic(&self) -> Arc<dyn Synic> {
        Arc::clone(&self.synic) as Arc<dyn Synic>
    }

    /// The stream of bytes between the host and a program in the guest.
    #[must_use]
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// What stops the machine.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        Stop(self.events.0.clone())
    }

    /// Runs the machine until it ends, one way or another.
    ///
    /// # Errors
    ///
    /// If a processor did something that no guest of this kind does.
    pub fn run(self, host: &Arc<dyn Host>) -> Result<Ending> {
        let Monitor {
            vcpus,
            _vm,
            memory,
            synic,
            control,
            ports,
            events: (sender, receiver),
            mut console,
            limit,
        } = self;
        register_signal_handler(SIGRTMIN(), on_kick).context("no signal for the processors")?;
        let deadline = Instant::now() + limit;
        let no_more_messages = EventFd::new(EFD_NONBLOCK)?;
        let surroundings = Arc::new(Surroundings {
            memory,
            ports: Arc::clone(&ports),
            synic: Arc::clone(&synic),
            host: Arc::clone(host),
            stop: AtomicBool::new(false),
        });
        let messages = thread::Builder::new().name("messages".into()).spawn({
            let stop = no_more_messages.try_clone()?;
            move || synic.run(&stop)
        })?;
        let mut threads = Vec::new();
        for (number, mut vcpu) in (0..).zip(vcpus) {
            let surroundings = Arc::clone(&surroundings);
            let sender = sender.clone();
            let thread = thread::Builder::new().name(format!("processor {number}"));
            threads.push(thread.spawn(move || {
                let ending = surroundings.run(number, &mut vcpu);
                let _ = sender.send(Event::Ended(ending));
            })?);
        }
        let ending = loop {
            match receiver.recv_timeout(CONSOLE) {
                Ok(Event::Ended(ending)) => break ending,
                Ok(Event::Stop) => break Ok(Ending::Stopped),
                Err(_) if Instant::now() >= deadline => break Ok(Ending::TimedOut),
                Err(_) => {
                    if let Err(error) = console.write_all(&ports.take_console()) {
                        break Err(error).context("the console cannot be written");
                    }
                }
            }
        };
        surroundings.stop.store(true, Ordering::SeqCst);
        // A processor that was about to run when it was kicked misses it.
        while threads.iter().any(|it| !it.is_finished()) {
            for thread in &threads {
                let _ = thread.kill(SIGRTMIN());
            }
            thread::sleep(KICK);
        }
        no_more_messages.write(1)?;
        let _ = messages.join();
        console.write_all(&ports.take_console())?;
        control.close();
        host.gone();
        ending
    }
}

/// Nothing is to be done: that a signal came ends `KVM_RUN`.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
