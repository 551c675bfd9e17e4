//! Whole trainings on small made-up images: what they learn, and that nothing but the seed decides the bytes.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use shared::config::{EarlyStopping, Objective};
use shared::network::SimpleCnn;
use shared::plane::Plane;
use shared::runtime::{Device, DeviceChoice, Settings};
use shared::split::Clusters;
use train::budget::{Residence, Room};
use train::data::{Data, Shelves};
use train::engine::{Engine, Rows, Weights};
use train::loss::Loss;
use train::optimizer::Optimizer;
use train::parameters::{self, Parameter};
use train::schedule::{self, Schedule};
use train::scorer::Scorer;
use train::store::{Filler, Store};
use train::training::{self, Setup, Trained};
use train::{Error, Precision};

const HEIGHT: usize = 64;
const WIDTH: usize = 16;

/// Images of a steep or a flat track: the same pixels and energy, so only the shape tells the classes apart.
fn clusters(seed: u64, rows: usize) -> Clusters {
    let mut random = shared::random::stream(seed, "training test", &[]);
    let mut found = Clusters { height: HEIGHT, width: WIDTH, ..Clusters::default() };
    for row in 0..rows {
        let main = row % 2 == 0;
        let mut image = vec![0.0; HEIGHT * WIDTH];
        let (tick, channel) = (random.random_range(4..HEIGHT - 16), random.random_range(0..WIDTH - 10));
        for i in 0..10 {
            let (t, c) = if main { (tick + i, channel + i / 5) } else { (tick + i / 5, channel + i) };
            image[t * WIDTH + c] = random.random_range(200.0..900.0);
        }
        found.images.extend(&image, HEIGHT * WIDTH);
        found.is_main_track.push(main);
        found.cluster_energy.push(random.random_range(2.0..50.0));
    }
    found
}

fn data(train: usize, validation: usize) -> Data {
    Data {
        train: clusters(1, train).into(),
        validation: clusters(2, validation).into(),
        digest: "made up".into(),
        plane: Plane::X,
        shelves: Shelves::default(),
    }
}

fn setup() -> Setup {
    Setup {
        network: SimpleCnn {
            height: HEIGHT,
            width: WIDTH,
            filters: 12,
            kernel: 3,
            conv_layers: 2,
            dense_layers: 2,
            units: 16,
            dropout: 0.1,
        },
        normalization: 0.001,
        batch_size: 32,
        epochs: 6,
        schedule: Schedule::exponential(0.003, 0.96),
        loss: Loss::default(),
        optimizer: Optimizer::default(),
        early_stopping: EarlyStopping::default(),
        objective: Objective::ValF1,
        seed: 42,
        trial: 3,
        precision: Precision::F32,
        identity: "one".into(),
    }
}

fn on_cpu(threads: usize) -> Settings {
    Settings::new(Device::Cpu, threads)
}

fn train(setup: &Setup, data: &Data, folder: &Path, threads: usize) -> Result<Trained, Error> {
    training::train(setup, data, folder, &on_cpu(threads), Room::ALL, |_, _, _| Ok(false))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_network_learns_what_only_the_shape_tells() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { epochs: 12, ..setup() };
    let trained = train(&setup, &data(1000, 300), folder.path(), 2).unwrap();
    let best = trained.progress.history.iter().map(|epoch| epoch.val_f1).fold(0.0, f64::max);
    assert!(best > 0.97, "validation F1 is only {best}");
    let history = std::fs::read_to_string(folder.path().join("history.csv")).unwrap();
    assert_eq!(history.lines().count(), 1 + trained.progress.history.len());
    assert!(
        history.starts_with("epoch,step,seconds,samples_per_second,learning_rate,loss,accuracy,val_loss,")
    );
}

#[test]
fn a_training_cut_after_any_epoch_ends_with_the_same_bits() {
    let data = data(200, 60);
    let whole = tempfile::tempdir().unwrap();
    let expected = train(&setup(), &data, whole.path(), 1).unwrap();
    for cut in [1, 4] {
        let folder = tempfile::tempdir().unwrap();
        // The report fails before the epoch's checkpoint is written, as if the process had died there.
        let stopped =
            training::train(&setup(), &data, folder.path(), &on_cpu(2), Room::ALL, |epoch, _, _| {
                if epoch > cut { Err(Error::Stopped { trial: 3, epoch: cut, step: 0 }) } else { Ok(false) }
            });
        assert!(matches!(stopped, Err(Error::Stopped { .. })));
        let mut epochs = Vec::new();
        let resumed =
            training::train(&setup(), &data, folder.path(), &on_cpu(2), Room::ALL, |epoch, _, _| {
                epochs.push(epoch);
                Ok(false)
            })
            .unwrap();
        assert_eq!(epochs.first(), Some(&(cut + 1)), "finished epochs must not be trained again");
        assert_eq!(bits(&resumed.params), bits(&expected.params));
        assert_eq!(resumed.progress.best_epoch, expected.progress.best_epoch);
    }
}

#[test]
fn a_training_in_half_precision_learns_as_well_and_goes_on_with_its_loss_scale() {
    let (data, half) = (data(400, 200), Setup { epochs: 8, precision: Precision::Fp16, ..setup() });
    let ends = |setup: &Setup| {
        let folder = tempfile::tempdir().unwrap();
        let trained = train(setup, &data, folder.path(), 2).unwrap();
        (trained.progress.history.last().unwrap().loss, trained.params)
    };
    let ((loss, params), (expected, floats)) =
        (ends(&half), ends(&Setup { precision: Precision::F32, ..half.clone() }));
    assert!(loss < 0.05 && (loss - expected).abs() < 0.01, "loss {loss}, in f32 {expected}");
    assert_ne!(bits(&params), bits(&floats));
    // Cut after its third epoch.
    let folder = tempfile::tempdir().unwrap();
    let stopped = training::train(&half, &data, folder.path(), &on_cpu(1), Room::ALL, |epoch, _, _| {
        if epoch > 3 { Err(Error::Stopped { trial: 3, epoch: 3, step: 0 }) } else { Ok(false) }
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })));
    let resumed = train(&half, &data, folder.path(), 1).unwrap();
    assert_eq!(bits(&resumed.params), bits(&params));
}

#[test]
fn a_loss_that_is_not_a_number_stops_a_training_in_half_precision_too() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { schedule: Schedule::exponential(1e30, 1.0), precision: Precision::Fp16, ..setup() };
    let error = train(&setup, &data(64, 32), folder.path(), 1).unwrap_err();
    assert!(
        matches!(error, Error::Diverged { epoch: 1, step: 2, gradient, .. } if gradient.is_finite()),
        "{error}"
    );
}

#[test]
fn a_checkpoint_of_another_configuration_or_other_data_is_refused() {
    let data = data(64, 32);
    let folder = tempfile::tempdir().unwrap();
    train(&Setup { epochs: 1, ..setup() }, &data, folder.path(), 1).unwrap();
    let other = Setup { epochs: 1, identity: "two".into(), ..setup() };
    let message = train(&other, &data, folder.path(), 1).unwrap_err().to_string();
    assert!(
        message.contains("belongs to another training (there → here):\n  trial: \"one\" → \"two\"\n"),
        "{message}"
    );
    let moved = Data { digest: "new".into(), ..data };
    let message = train(&setup(), &moved, folder.path(), 1).unwrap_err().to_string();
    assert!(
        message.contains("\n  data_digest: \"made up\" → \"new\"\ndelete it to start this trial again"),
        "{message}"
    );
}

#[test]
fn patience_ends_a_training_and_the_best_weights_come_back() {
    let data = data(64, 40);
    let folder = tempfile::tempdir().unwrap();
    // A rate at which the validation loss soon gets worse.
    let early_stopping = EarlyStopping { patience: 2, ..EarlyStopping::default() };
    let setup = Setup { epochs: 60, schedule: Schedule::exponential(0.03, 1.0), early_stopping, ..setup() };
    let trained = train(&setup, &data, folder.path(), 2).unwrap();
    let history = &trained.progress.history;
    let best = history.iter().min_by(|a, b| a.val_loss.total_cmp(&b.val_loss)).unwrap();
    assert_eq!(trained.progress.best_epoch, best.epoch);
    assert_eq!(history.len() as u32, best.epoch + 2);
    let last = Setup {
        early_stopping: EarlyStopping { restore_best_weights: false, ..setup.early_stopping.clone() },
        ..setup.clone()
    };
    let again = train(&last, &data, folder.path(), 2).unwrap();
    assert_ne!(bits(&trained.params), bits(&again.params), "the last weights are not the best ones");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_trial_and_names_step_and_layer() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { schedule: Schedule::exponential(1e30, 1.0), ..setup() };
    let data = data(64, 32);
    let error = train(&setup, &data, folder.path(), 1).unwrap_err();
    // The first step's weights overflow in the second one; the gradient of the first step was still sound.
    let Error::Diverged { trial: 3, epoch: 1, step: 2, ref layer, gradient } = error else {
        panic!("{error}")
    };
    let (name, value) = largest_gradient(&setup, &data);
    assert_eq!((layer, gradient as f32), (&name, value as f32));
    let expected = format!(
        "trial 3: the loss is not a finite number at epoch 1, step 2; the largest gradient until then was {value:.3e}, \
         of `{name}`; use a smaller learning rate or `global_clipnorm`"
    );
    assert_eq!(error.to_string(), expected);
    assert!(!folder.path().join("checkpoint.safetensors").exists());
}

/// The parameter with the largest gradient in the first step, from the second moment: v = 0.001 g².
fn largest_gradient(setup: &Setup, data: &Data) -> (String, f64) {
    let first = step_by_step(setup, data, 1, 1);
    let parameters = parameters::parameters(&setup.network.layers().unwrap(), setup.network.kernel);
    let largest = |p: &Parameter| {
        let at = (p.start..p.start + p.len()).max_by(|&a, &b| first.v[a].total_cmp(&first.v[b])).unwrap();
        (p.name.clone(), f64::from(first.m[at]).abs() / (1.0 - 0.9), first.v[at])
    };
    let (name, gradient, _) = parameters.iter().map(largest).max_by(|a, b| a.2.total_cmp(&b.2)).unwrap();
    (name, gradient)
}

const NOTHING_DONE: (usize, (f64, f64)) = (0, (0.0, 0.0));

fn rows(data: &Data, residence: Residence) -> Rows {
    let shelf = Arc::clone(&data.shelves.train);
    Rows { images: Arc::clone(&data.train.images), labels: data.train.labels(), residence, shelf }
}

/// Weights after `steps` steps.
fn step_by_step(setup: &Setup, data: &Data, threads: usize, steps: usize) -> Weights {
    let layers = setup.network.layers().unwrap();
    let plan = setup.plan(data.train.rows()).unwrap();
    let rows = rows(data, Residence::Whole);
    let mut engine = Engine::new(&plan, &layers, &rows, &on_cpu(threads)).unwrap();
    let parameters = parameters::parameters(&layers, setup.network.kernel);
    engine.load(&Weights::start(parameters::initial_weights(&parameters, setup.seed, setup.trial))).unwrap();
    let order = schedule::order(plan.rows, plan.steps_per_epoch * plan.batch, setup.seed, setup.trial, 1);
    let rates = setup.schedule.over(plan.steps_per_epoch, setup.epochs);
    engine
        .start_epoch(&order, &rates.inputs(0, plan.steps_per_epoch, &plan.optimizer), NOTHING_DONE)
        .unwrap();
    for _ in 0..steps {
        engine.step().unwrap();
    }
    engine.weights().unwrap()
}

#[test]
fn one_to_four_threads_give_the_same_bits_at_every_width_of_v1_to_v4() {
    // Filters 32 to 256 over 2 to 4 convolutions have the widths 256, 128, 85, 64, 42, 32, 21, 16, 10 and 8.
    let data = data(40, 8);
    for (filters, kernel, conv_layers, dense_layers, units) in
        [(32, 3, 2, 2, 64), (32, 5, 3, 3, 128), (64, 3, 4, 2, 64), (128, 5, 3, 3, 128), (256, 3, 4, 3, 256)]
    {
        let network = SimpleCnn { filters, kernel, conv_layers, dense_layers, units, ..setup().network };
        let setup = Setup { network, batch_size: 40, ..setup() };
        let expected = step_by_step(&setup, &data, 1, 1);
        assert!(expected.params.iter().all(|value| value.is_finite()));
        for threads in 2..=4 {
            let found = step_by_step(&setup, &data, threads, 1);
            let same = bits(&found.params) == bits(&expected.params) && bits(&found.v) == bits(&expected.v);
            assert!(same, "F {filters}, k {kernel}, conv {conv_layers}: {threads} threads round differently");
        }
    }
}

/// Weights and sums after `steps` steps of an epoch, of which `before` were taken by an engine that then stopped, and scores.
fn in_parts(setup: &Setup, rows: &Rows, before: usize, steps: usize) -> (Weights, (f64, f64), Vec<f32>) {
    let layers = setup.network.layers().unwrap();
    let plan = setup.plan(rows.labels.len()).unwrap();
    let parameters = parameters::parameters(&layers, setup.network.kernel);
    let mut weights = Weights::start(parameters::initial_weights(&parameters, setup.seed, setup.trial));
    let order = schedule::order(plan.rows, plan.steps_per_epoch * plan.batch, setup.seed, setup.trial, 1);
    let rates = vec![1e-3; plan.steps_per_epoch];
    let mut sums = (0.0, 0.0);
    for (from, to) in [(0, before), (before, steps)] {
        let mut engine = Engine::new(&plan, &layers, rows, &on_cpu(2)).unwrap();
        engine.load(&weights).unwrap();
        engine.start_epoch(&order, &rates, (from, sums)).unwrap();
        for _ in from..to {
            engine.step().unwrap();
        }
        (weights, sums) = (engine.weights().unwrap(), engine.sums().unwrap());
    }
    let mut scorer = Scorer::new(&plan, &layers, &rows.images, rows.residence, &on_cpu(2)).unwrap();
    let scores = scorer.score(&weights.params).unwrap();
    (weights, sums, scores)
}

#[test]
fn parts_of_an_epoch_from_a_file_give_the_same_bits_as_everything_in_memory() {
    // More rows than a part has; the last step is padded.
    let count = schedule::CHUNK_ROWS + 2001;
    let clusters = clusters(1, count);
    let network = SimpleCnn { filters: 2, dense_layers: 1, units: 2, ..setup().network };
    let setup = Setup { network, batch_size: 200, ..setup() };
    let steps = count.div_ceil(200);
    let labels: Vec<f32> = clusters.is_main_track.iter().map(|&main| f32::from(u8::from(main))).collect();
    let half = |part: usize| clusters.images.select((part * count / 2)..(part + 1) * count / 2);
    let mut file = Filler::new(100_000);
    file.add(&half(0)).unwrap();
    file.add(&half(1)).unwrap();
    let file = file.finish().unwrap();
    assert!(matches!(file, Store::File(_)));
    let streamed = Rows {
        images: Arc::new(file),
        labels: labels.clone(),
        residence: Residence::Parts,
        shelf: Arc::default(),
    };
    let resident = Rows::whole(clusters.images.clone(), labels);
    let expected = in_parts(&setup, &resident, 0, steps);
    // Stopped in the first part and in the second.
    for before in [70, steps - 3] {
        let found = in_parts(&setup, &streamed, before, steps);
        assert_eq!(bits(&found.0.params), bits(&expected.0.params), "stopped after {before} steps");
        assert_eq!(found.1, expected.1);
        assert_eq!(bits(&found.2), bits(&expected.2));
    }
}

#[test]
fn the_last_padded_batch_counts_its_rows_once() {
    // 41 rows in batches of 40: the second step has one row; its gradient must not be diluted by the padding.
    let data = data(41, 8);
    let network = SimpleCnn { dropout: 0.0, ..setup().network };
    let setup = Setup { network, batch_size: 40, ..setup() };
    let layers = setup.network.layers().unwrap();
    let plan = setup.plan(41).unwrap();
    let labels = data.train.labels();
    let parameters = parameters::parameters(&layers, setup.network.kernel);
    let start = Weights::start(parameters::initial_weights(&parameters, 1, 1));
    let rows = rows(&data, Residence::Whole);
    let mut padded = Engine::new(&plan, &layers, &rows, &on_cpu(1)).unwrap();
    padded.load(&start).unwrap();
    let mut order = schedule::order(41, 80, 1, 1, 1);
    // Let the real row of the second step come first: one step on it alone, from the start weights.
    order.rotate_left(40);
    let alone = order[0] as usize;
    order.rotate_right(40);
    padded.start_epoch(&order, &[0.0, 0.001], NOTHING_DONE).unwrap();
    padded.step().unwrap();
    let before = padded.sums().unwrap();
    padded.step().unwrap();
    let after = padded.sums().unwrap();

    let images = data.train.images.read(&[alone]).unwrap();
    let single = Setup { batch_size: 1, ..setup };
    let plan = single.plan(1).unwrap();
    let rows = Rows::whole(images, vec![labels[alone]]);
    let mut engine = Engine::new(&plan, &layers, &rows, &on_cpu(1)).unwrap();
    engine.load(&start).unwrap();
    engine.start_epoch(&[0], &[0.0], NOTHING_DONE).unwrap();
    engine.step().unwrap();
    let (loss, correct) = engine.sums().unwrap();
    assert!((after.0 - before.0 - loss).abs() < 1e-4, "{after:?} {before:?} {loss}");
    assert!((after.1 - before.1 - correct).abs() < 1e-6);
}

#[test]
fn adam_moves_as_kingma_and_ba_with_keras_epsilon() {
    // Computed in f64 from the published formulas, over five steps of the engine's own gradients.
    let data = data(320, 8);
    let network = SimpleCnn { dropout: 0.0, ..setup().network };
    let setup = Setup { network, batch_size: 64, ..setup() };
    let (mut m, mut v): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut previous = step_by_step(&setup, &data, 1, 0);
    for t in 1..=5_i32 {
        let now = step_by_step(&setup, &data, 1, t as usize);
        if t == 1 {
            m = vec![0.0; now.params.len()];
            v = m.clone();
        }
        let rate = 0.003 * 0.96_f64.powf(f64::from(t - 1) / 10_000.0);
        for i in 0..now.params.len() {
            // m' = 0.9 m + 0.1 g gives the gradient back.
            let g = (f64::from(now.m[i]) - 0.9 * f64::from(previous.m[i])) / 0.1;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let corrected = rate * (1.0 - 0.999_f64.powi(t)).sqrt() / (1.0 - 0.9_f64.powi(t));
            let change = corrected * m[i] / (v[i].sqrt() + 1e-7);
            let found = f64::from(now.params[i]) - f64::from(previous.params[i]);
            assert!(
                (found + change).abs() < 2e-6 + 2e-3 * change.abs(),
                "step {t}, {i}: {found} against {change}"
            );
        }
        previous = now;
    }
}

#[test]
fn glorot_weights_have_the_bound_and_spread_that_keras_has() {
    // keras.initializers.GlorotUniform on a (3, 1, 32, 64) kernel: fans 96 and 192, bound sqrt(6 / 288) = 0.144338.
    let network = SimpleCnn { filters: 64, ..setup().network };
    let layers = SimpleCnn { conv_layers: 2, ..network }.layers().unwrap();
    let parameters = parameters::parameters(&layers, 3);
    let conv2 = parameters.iter().find(|p| p.name == "conv2.weight").unwrap();
    assert_eq!(conv2.shape, [3, 64, 32]);
    let flat = parameters::initial_weights(&parameters, 42, 0);
    let weights = &flat[conv2.start..conv2.start + conv2.len()];
    let bound = 0.144_337_57_f32;
    let largest = weights.iter().fold(0.0_f32, |a, w| a.max(w.abs()));
    assert!(largest <= bound && largest > 0.999 * bound, "{largest}");
    let variance = weights.iter().map(|w| f64::from(w * w)).sum::<f64>() / weights.len() as f64;
    assert!((variance / (f64::from(bound).powi(2) / 3.0) - 1.0).abs() < 0.05, "{variance}");
    let bias = parameters.iter().find(|p| p.name == "conv2.bias").unwrap();
    assert!(flat[bias.start..bias.start + bias.len()].iter().all(|&b| b == 0.0));
}

/// Two trials of one geometry, one of another, and one more of the first.
fn related_trials() -> [Setup; 4] {
    let small = |trial, filters, kernel| {
        let network = SimpleCnn { filters, kernel, ..setup().network };
        Setup { network, trial, epochs: 2, ..setup() }
    };
    [small(0, 4, 3), small(1, 6, 3), small(2, 4, 5), small(3, 4, 3)]
}

/// Parameters and logits of a trial's end.
fn ends(setup: &Setup, data: &Data, device: Device) -> (Vec<f32>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(device, 1);
    let trained =
        training::train(setup, data, folder.path(), &settings, Room::ALL, |_, _, _| Ok(false)).unwrap();
    (trained.params, trained.logits)
}

fn ends_side_by_side(setups: &[Setup], data: &Data, device: Device) -> Vec<(Vec<f32>, Vec<f32>)> {
    std::thread::scope(|scope| {
        let trials: Vec<_> =
            setups.iter().map(|setup| scope.spawn(move || ends(setup, data, device))).collect();
        trials.into_iter().map(|trial| trial.join().unwrap()).collect()
    })
}

#[test]
fn trials_that_share_their_tables_end_with_the_bytes_of_trials_alone() {
    let trials = related_trials();
    let all_bits = |ends: Vec<(Vec<f32>, Vec<f32>)>| -> Vec<_> {
        ends.iter().map(|(params, logits)| (bits(params), bits(logits))).collect()
    };
    let alone = trials.iter().map(|setup| ends(setup, &data(200, 70), Device::Cpu));
    let alone = all_bits(alone.collect());
    // One worker: the third trial's tables take the place of those of the first two.
    let worker = data(200, 70);
    let one_after_another = trials.iter().map(|setup| ends(setup, &worker, Device::Cpu));
    assert!(all_bits(one_after_another.collect()) == alone);
    let workers = Data { shelves: Shelves::new(4, 2), ..worker };
    assert!(all_bits(ends_side_by_side(&trials, &workers, Device::Cpu)) == alone);
}

#[test]
fn trials_side_by_side_on_a_gpu_learn_what_trials_alone_learn() {
    let Ok(device @ Device::Cuda(_)) = DeviceChoice::Auto.resolve() else {
        eprintln!("SKIPPED: no GPU with a CUDA build of ONNX Runtime here");
        return;
    };
    let trials = related_trials();
    let alone: Vec<_> = trials.iter().map(|setup| ends(setup, &data(200, 70), device)).collect();
    // Fewer places than trials, so that tables go while others train.
    for places in [4, 2] {
        let workers = Data { shelves: Shelves::new(places, 4), ..data(200, 70) };
        let found = ends_side_by_side(&trials, &workers, device);
        for ((_, found), (_, alone)) in found.iter().zip(&alone) {
            let most = found.iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most < 1e-3, "logits differ by {most}");
        }
    }
}
