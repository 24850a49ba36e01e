# Training, distillation, prediction and scores of the runs that the arms name, and of the selection stage's teachers.
# A run is known by its directory under results/.
RUNS = {run.directory.relative_to(paths.RESULTS).as_posix(): run for run in plan.all_runs(CONFIG)}
OUTSIDE_STUDIES = {name: run for name, run in RUNS.items() if not run.study}
ON_LABELS = any_of(name for name, run in OUTSIDE_STUDIES.items() if plan.teacher_of(CONFIG, run) is None)
WEIGHTS = {definition.file: name for name, definition in CONFIG.weights_definitions.items()}
DISTILLED = any_of(name for name, run in OUTSIDE_STUDIES.items() if plan.teacher_of(CONFIG, run) is not None)
STORES = {path.relative_to(paths.RESULTS).as_posix(): runs for path, runs in stores.target_stores(CONFIG).items()}
TARGETS = {run: f"results/{store}/ready.json" for store, runs in STORES.items() for run in runs}


rule tracking:
    output:
        "results/tracking/ready.json",
    log:
        "results/logs/tracking.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=1000,
    params:
        tracking=CONFIG.tracking.model_dump(),
        studies=plan.studies_to_track(CONFIG),
    message:
        "Opening the MLflow store before anything runs in parallel"
    shell:
        "dvfl tracking --out {output} 2>&1 | tee -i {log}"


rule fetch_weights:
    output:
        "resources/weights/{file}",
    log:
        "results/logs/fetch_weights/{file}.log",
    wildcard_constraints:
        file=any_of(WEIGHTS),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=1000,
    params:
        name=lambda wc: WEIGHTS[wc.file],
        definition=lambda wc: steps.definition_of_weights(CONFIG, WEIGHTS[wc.file]),
    message:
        "Fetching the weights {params.name}"
    shell:
        "dvfl fetch-weights {params.name} 2>&1 | tee -i {log}"


# The teacher's logits for exactly the inputs that some runs will show: asked once, read by all of them.
rule targets:
    input:
        unpack(lambda wc: steps.targets(CONFIG, STORES[wc.store][0])),
    output:
        "results/{store}/ready.json",
    log:
        "results/logs/{store}.log",
    wildcard_constraints:
        store=any_of(STORES),
    priority: 10  # others wait for targets
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.training_cores(STORES[wc.store][0])
    resources:
        **needs("targets", {store: runs[0] for store, runs in STORES.items()}, "store"),
    message:
        "Asking a teacher for the targets of several runs: {wildcards.store}"
    shell:
        "dvfl targets results/{wildcards.store} --wait 2>&1 | tee -i {log}"


rule train:
    input:
        unpack(lambda wc: steps.training(CONFIG, RUNS[wc.run])),
        ready=ancient("results/tracking/ready.json"),
    output:
        weights="results/{run}/weights.safetensors",
        history="results/{run}/history.csv",
        about="results/{run}/run.json",
    log:
        "results/logs/train/{run}.log",
    wildcard_constraints:
        run=ON_LABELS,
    priority: 10  # others wait for teachers
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.training_cores(RUNS[wc.run])
    resources:
        **needs("train", RUNS),
    params:
        settings=lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).digest,
    message:
        "Training {wildcards.run}"
    shell:
        "dvfl train results/{wildcards.run} --wait 2>&1 | tee -i {log}"


rule distil:
    input:
        unpack(lambda wc: steps.training(CONFIG, RUNS[wc.run])),
        targets=lambda wc: TARGETS.get(RUNS[wc.run], []),
        ready=ancient("results/tracking/ready.json"),
    output:
        weights="results/{run}/weights.safetensors",
        history="results/{run}/history.csv",
        about="results/{run}/run.json",
    log:
        "results/logs/distil/{run}.log",
    wildcard_constraints:
        run=DISTILLED,
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.training_cores(RUNS[wc.run])
    resources:
        **needs("distil", RUNS),
    params:
        settings=lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).digest,
    message:
        "Distilling {wildcards.run}"
    shell:
        "dvfl train results/{wildcards.run} --wait 2>&1 | tee -i {log}"


rule test:
    input:
        weights="results/{run}/weights.safetensors",
        about="results/{run}/run.json",
        index=lambda wc: paths.index_path(RUNS[wc.run].dataset),
        split=lambda wc: paths.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
        frames=lambda wc: steps.frames(CONFIG, RUNS[wc.run]),
    output:
        "results/{run}/predictions.parquet",
    log:
        "results/logs/test/{run}.log",
    wildcard_constraints:
        run=any_of(OUTSIDE_STUDIES),
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.training_cores(RUNS[wc.run])
    resources:
        **needs("test", RUNS),
    params:
        views=lambda wc: steps.test_settings(CONFIG, RUNS[wc.run]),
    message:
        "Predicting every test clip with {wildcards.run}"
    shell:
        "dvfl test results/{wildcards.run} 2>&1 | tee -i {log}"


rule score:
    input:
        predictions="results/{run}/predictions.parquet",
        about="results/{run}/run.json",
        index=lambda wc: paths.index_path(RUNS[wc.run].dataset),
        split=lambda wc: paths.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
        ready=ancient("results/tracking/ready.json"),
    output:
        "results/{run}/scores.json",
    log:
        "results/logs/score/{run}.log",
    wildcard_constraints:
        run=any_of(OUTSIDE_STUDIES),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=1000,
    params:
        resamples=CONFIG.evaluate.resamples,
    message:
        "Scoring {wildcards.run}"
    shell:
        "dvfl score results/{wildcards.run} 2>&1 | tee -i {log}"


rule motion_check:
    input:
        weights="results/{run}/weights.safetensors",
        split=lambda wc: paths.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
        frames=lambda wc: steps.frames(CONFIG, RUNS[wc.run]),
    output:
        "results/{run}/motion_check.json",
    log:
        "results/logs/motion_check/{run}.log",
    wildcard_constraints:
        run=any_of(OUTSIDE_STUDIES),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=2000,
    message:
        "Is the class in the motion? Asking {wildcards.run}"
    shell:
        "dvfl motion-check results/{wildcards.run} --out {output} 2>&1 | tee -i {log}"
