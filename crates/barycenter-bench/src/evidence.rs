//! The methods and settings of the evidence table (`docs/method.md`, "Evidence").

use barycenter_core::{
    average::{BatchNormPolicy, Method, Rule, Start, TensorPolicy, TwaOptions},
    blocks::Granularity,
    checkpoint::Dtype,
    fit::{Basis, Constraint, Form, Optimiser, Pooling, Schedule},
    merge::weights::Curve,
};

/// Steps of a fit, as near as whole passes come.
const STEPS: f64 = 200.0;
const BATCH_SIZE: usize = 128;
/// Checkpoints of the evidence's run.
const CANDIDATES: usize = 16;
/// What a job gets that names nothing.
const STRENGTH: f64 = 8.0;

/// One line of the table, before its seeds.
pub struct Setting {
    method: Method,
    /// `validation`, `train`, `validation + train` or `all of validation`.
    pub fit: &'static str,
    /// Where running statistics come from.
    pub batch_norm: BatchNormPolicy,
    /// Whether they are recomputed on augmented images.
    pub batch_norm_augment: bool,
    /// Whether all baselines are evaluated, and the guard chooses.
    pub with_baselines: bool,
    /// What becomes of tensors by their names.
    pub tensors: Vec<(&'static str, TensorPolicy)>,
    /// Element type of the result; its losses are those of the file, read back.
    pub dtype: Option<Dtype>,
    /// Whether the fit starts from the coefficients of an earlier one, on all candidates but these last ones.
    pub new_candidates: Option<usize>,
    /// The part of the usual steps that a fit makes.
    pub steps: f64,
}

impl Setting {
    /// A method on the usual data, without baselines.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            fit: "validation + train",
            batch_norm: BatchNormPolicy::Recompute,
            batch_norm_augment: true,
            with_baselines: false,
            tensors: Vec::new(),
            dtype: None,
            new_candidates: None,
            steps: 1.0,
        }
    }

    /// The method with the passes that a job gets by default for so many samples.
    pub fn method_for(&self, samples: usize) -> Method {
        let mut method = self.method.clone();
        if let Method::Twa(twa) = &mut method {
            let steps_per_epoch = samples.div_ceil(BATCH_SIZE) as f64;
            twa.epochs = (STEPS * self.steps / steps_per_epoch).round().clamp(1.0, 20.0) as u64;
        }
        method
    }
}

/// What a job gets that names nothing but candidates, network and data, before its passes.
pub fn default_twa() -> TwaOptions {
    let form = Form { pooling: Pooling::Partial { strength: STRENGTH }, ..Form::default() };
    TwaOptions { form, ..TwaOptions::plain(Granularity::Tensor, 4, 1) }
}

/// Every line by its name: the defaults, then what differs from them.
pub fn settings() -> Vec<(String, Setting)> {
    let mut all = Vec::new();
    let mut add = |name: &str, setting: Setting| all.push((name.to_owned(), setting));
    let twa = |change: &dyn Fn(&mut TwaOptions)| {
        let mut options = default_twa();
        change(&mut options);
        Setting::new(Method::Twa(options))
    };
    let form = |change: &dyn Fn(&mut Form)| twa(&|options| change(&mut options.form));
    let rule = |rule| Setting::new(Method::Rule(rule));

    add("defaults", Setting { with_baselines: true, ..twa(&|_| {}) });
    add("line_search", Setting { with_baselines: true, ..rule(Rule::LineSearch) });
    for bits in [32, 8, 2, 1] {
        add(&format!("bits {bits}"), twa(&|options| options.bits = bits));
    }
    for fit in ["validation", "train", "all of validation"] {
        add(&format!("fit on {fit}"), Setting { fit, ..twa(&|_| {}) });
    }
    for granularity in [Granularity::Model, Granularity::Layer, Granularity::Elements(16_384)] {
        add(&format!("granularity {granularity}"), twa(&|options| options.granularity = granularity));
    }
    for granularity in [Granularity::Layer, Granularity::Tensor] {
        let setting = twa(&|options| (options.granularity, options.form.pooling) = (granularity, Pooling::None));
        add(&format!("granularity {granularity}, no pooling"), setting);
    }
    let setting = twa(&|options| options.granularity = Granularity::Model);
    let setting = Setting { fit: "all of validation", ..setting };
    add("granularity model, fit on all of validation", setting);
    for strength in [2.0, 32.0] {
        let setting = form(&|form| form.pooling = Pooling::Partial { strength });
        add(&format!("pooling {strength}"), setting);
    }
    add("constraint convex", form(&|form| form.constraint = Constraint::Convex));
    add("constraint linear", form(&|form| form.constraint = Constraint::Linear));
    let orthonormal = |granularity| {
        twa(&|options: &mut TwaOptions| {
            options.granularity = granularity;
            (options.form.basis, options.form.pooling) = (Basis::Orthonormal, Pooling::None);
        })
    };
    add("basis orthonormal, granularity model", orthonormal(Granularity::Model));
    add("basis orthonormal, granularity tensor", orthonormal(Granularity::Tensor));
    let sgd = Optimiser::Sgd { momentum: 0.9, weight_decay: 0.0 };
    add("optimiser sgd", twa(&|options| (options.optimiser, options.learning_rate) = (sgd, Some(0.5))));
    for (name, schedule) in
        [("constant", Schedule::Constant), ("step", Schedule::Step), ("linear", Schedule::Linear { warm_up: 0.2 })]
    {
        add(&format!("schedule {name}"), twa(&|options| options.schedule = schedule));
    }
    add("clip_norm 0.1", twa(&|options| options.clip_norm = Some(0.1)));
    add("sam_rho 0.5", twa(&|options| options.sam_rho = 0.5));
    add("ranks 2", twa(&|options| options.ranks = 2));
    add("patience 1", twa(&|options| options.patience = Some(1)));
    add("start best", twa(&|options| options.start = Start::Best));
    for (name, steps) in [("start an earlier job", 1.0), ("start an earlier job, half the steps", 0.5)] {
        add(name, Setting { new_candidates: Some(4), steps, ..twa(&|_| {}) });
    }
    add("half the steps", Setting { steps: 0.5, ..twa(&|_| {}) });
    add("tensors fc.* copy", Setting { tensors: vec![("fc.*", TensorPolicy::Copy)], ..twa(&|_| {}) });
    add("output dtype BF16", Setting { dtype: Some(Dtype::Bf16), ..twa(&|_| {}) });
    add("batch_norm plain images", Setting { batch_norm_augment: false, ..twa(&|_| {}) });
    add("batch_norm average", Setting { batch_norm: BatchNormPolicy::Average, ..twa(&|_| {}) });
    add("batch_norm copy", Setting { batch_norm: BatchNormPolicy::Copy, ..twa(&|_| {}) });
    let growing = (1..=CANDIDATES).map(|position| position as f64).collect();
    add("fixed weights 1 to 16", rule(Rule::Fixed(growing)));
    for decay in [0.8, 0.9] {
        add(&format!("ema {decay}"), rule(Rule::Ema { decay }));
    }
    add("weights of a linear decay", rule(Rule::Schedule(Curve::Linear)));
    add("weights of a cosine decay", rule(Rule::Schedule(Curve::Cosine)));
    add("weights of a 1 − √x decay", rule(Rule::Schedule(Curve::OneMinusSqrt)));
    all
}
