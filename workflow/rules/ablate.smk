# Studies: each trial is one job, whatever it trains; a study's choice waits for all of its trials.


rule trial:
    input:
        unpack(lambda wc: steps.training(CONFIG, RUNS[wc.run])),
        ready=ancient("results/tracking/ready.json"),
    output:
        weights="results/{run}/weights.safetensors",
        history="results/{run}/history.csv",
        about="results/{run}/run.json",
        predictions="results/{run}/predictions.parquet",
        scores="results/{run}/scores.json",
    wildcard_constraints:
        run=r"ablation/[^/]+/(?!selection/)[^/]+/[^/]+/[^/]+/seed\d+",
    log:
        "results/logs/trial/{run}.log",
    threads: lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).train.threads
    resources:
        machine_cores=lambda wc, threads: threads,
        mem_mb=2000,
    params:
        settings=lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).digest,
        evaluate=CONFIG.evaluate.model_dump(),
    conda:
        "../../envs/dvfl.yaml"
    message:
        "Trial {wildcards.run}"
    shell:
        "{DVFL} trial results/{wildcards.run:q} --config {CONFIG_FILE} 2>&1 | tee {log:q}"


rule choose:
    input:
        lambda wc: steps.scores(CONFIG, wc.dataset, wc.study),
    output:
        "results/ablation/{dataset}/{study}/choice.json",
    log:
        "results/logs/choose/{dataset}.{study}.log",
    resources:
        machine_cores=1,
        mem_mb=1000,
    conda:
        "../../envs/dvfl.yaml"
    message:
        "What {wildcards.study} chooses on the validation subset of {wildcards.dataset}"
    shell:
        "{DVFL} choose {wildcards.dataset} {wildcards.study} --config {CONFIG_FILE} 2>&1 | tee {log}"
