# Studies: each trial is one job, whatever it trains; a study's choice waits for all of its trials.


rule trial:
    input:
        unpack(lambda wc: steps.training(CONFIG, RUNS[wc.run])),
        targets=lambda wc: TARGETS.get(RUNS[wc.run], []),
        ready=ancient("results/tracking/ready.json"),
    output:
        weights="results/{run}/weights.safetensors",
        history="results/{run}/history.csv",
        about="results/{run}/run.json",
        predictions="results/{run}/predictions.parquet",
        scores="results/{run}/scores.json",
    log:
        "results/logs/trial/{run}.log",
    wildcard_constraints:
        run=plan.any_of(name for name, run in RUNS.items() if run.study),
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.training_cores(RUNS[wc.run])
    resources:
        **needs("trial", RUNS),
    params:
        settings=lambda wc: plan.run_settings(CONFIG, RUNS[wc.run]).digest,
        evaluate=lambda wc: plan.evaluation(CONFIG, RUNS[wc.run]).model_dump(),
    message:
        "Trial {wildcards.run}"
    shell:
        "dvfl trial results/{wildcards.run:q} --wait 2>&1 | tee -i {log:q}"


rule choose:
    input:
        lambda wc: steps.scores(CONFIG, wc.dataset, wc.study),
    output:
        "results/ablation/{dataset}/{study}/choice.json",
    log:
        "results/logs/choose/{dataset}.{study}.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=1000,
    message:
        "What {wildcards.study} chooses on the validation subset of {wildcards.dataset}"
    shell:
        "dvfl choose {wildcards.dataset} {wildcards.study} 2>&1 | tee -i {log}"
