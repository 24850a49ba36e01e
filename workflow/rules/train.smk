# Training, distillation, prediction and scores of the runs that the arms name, and of the selection stage's teachers.
# A run is known by its directory under results/.
RUNS = {run.directory.relative_to(plan.RESULTS).as_posix(): run for run in plan.all_runs(CONFIG)}
TRAINED_ALONE = r"runs/[^,]+/seed\d+|ablation/[^/]+/selection/[^/]+/seed\d+"


rule tracking:
    output:
        "results/tracking/ready.json",
    log:
        "results/logs/tracking.log",
    resources:
        machine_cores=1,
        mem_mb=1000,
    params:
        tracking=CONFIG.tracking.model_dump(),
        studies=plan.studies_to_track(CONFIG),
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Opening the MLflow store before anything runs in parallel"
    shell:
        "{DVFL} tracking --out {output} --config {CONFIG_FILE} 2>&1 | tee {log}"


rule train:
    input:
        unpack(lambda wc: steps.training(CONFIG, RUNS[wc.run])),
        ready=ancient("results/tracking/ready.json"),
    output:
        weights="results/{run}/weights.safetensors",
        history="results/{run}/history.csv",
        about="results/{run}/run.json",
    wildcard_constraints:
        run=TRAINED_ALONE,
    log:
        "results/logs/train/{run}.log",
    threads: lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).train.threads
    resources:
        machine_cores=lambda wc, threads: threads,
        mem_mb=2000,
    params:
        settings=lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).digest,
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Training {wildcards.run}"
    shell:
        "{DVFL} train results/{wildcards.run} --config {CONFIG_FILE} 2>&1 | tee {log}"


rule test:
    input:
        weights="results/{run}/weights.safetensors",
        about="results/{run}/run.json",
        index=lambda wc: plan.index_path(RUNS[wc.run].dataset),
        split=lambda wc: plan.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
    output:
        "results/{run}/predictions.parquet",
    wildcard_constraints:
        run=TRAINED_ALONE,
    log:
        "results/logs/test/{run}.log",
    threads: lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).train.threads
    resources:
        machine_cores=lambda wc, threads: threads,
        mem_mb=2000,
    params:
        views=(CONFIG.evaluate.clips, CONFIG.evaluate.crops),
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Predicting every test clip with {wildcards.run}"
    shell:
        "{DVFL} test results/{wildcards.run} --config {CONFIG_FILE} 2>&1 | tee {log}"


rule score:
    input:
        predictions="results/{run}/predictions.parquet",
        about="results/{run}/run.json",
        index=lambda wc: plan.index_path(RUNS[wc.run].dataset),
        split=lambda wc: plan.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
        ready=ancient("results/tracking/ready.json"),
    output:
        "results/{run}/scores.json",
    wildcard_constraints:
        run=TRAINED_ALONE,
    log:
        "results/logs/score/{run}.log",
    resources:
        machine_cores=1,
        mem_mb=1000,
    params:
        resamples=CONFIG.evaluate.resamples,
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Scoring {wildcards.run}"
    shell:
        "{DVFL} score results/{wildcards.run} --config {CONFIG_FILE} 2>&1 | tee {log}"


rule motion_check:
    input:
        weights="results/{run}/weights.safetensors",
        split=lambda wc: plan.split_path(RUNS[wc.run].dataset, RUNS[wc.run].split),
    output:
        "results/{run}/motion_check.json",
    wildcard_constraints:
        run=TRAINED_ALONE,
    log:
        "results/logs/motion_check/{run}.log",
    resources:
        machine_cores=1,
        mem_mb=2000,
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Is the class in the motion? Asking {wildcards.run}"
    shell:
        "{DVFL} motion-check results/{wildcards.run} --out {output} --config {CONFIG_FILE} 2>&1 | tee {log}"
