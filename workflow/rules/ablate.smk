# Studies: each trial is one job, whatever it trains; a study's choice waits for all of its trials. Of a study that
# searches, where the trials are not known beforehand, each worker is one job.


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
        run=any_of(name for name, run in RUNS.items() if run.study),
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
    wildcard_constraints:
        study=any_of(CONFIG.ablation.studies),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        machine_cores=1,
        mem_mb=1000,
    message:
        "What {wildcards.study} chooses on the validation subset of {wildcards.dataset}"
    shell:
        "dvfl choose {wildcards.dataset} {wildcards.study} 2>&1 | tee -i {log}"


rule tune:
    input:
        lambda wc: steps.tuning(CONFIG, wc.dataset, wc.study),
        ready=ancient("results/tracking/ready.json"),
    output:
        "results/ablation/{dataset}/{study}/workers/{worker}.json",
    log:
        "results/logs/tune/{dataset}.{study}.{worker}.log",
    wildcard_constraints:
        study=any_of(CONFIG.ablation.tune),
        worker=r"\d+",
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: needs.tuning_cores(wc)
    resources:
        **needs.tuning("tune"),
    params:
        settings=lambda wc: steps.tune_settings(CONFIG, wc.dataset, wc.study),
    message:
        "Worker {wildcards.worker} of the search {wildcards.study} on {wildcards.dataset}"
    shell:
        "dvfl tune {wildcards.dataset} {wildcards.study} --worker {wildcards.worker} --wait --out {output} 2>&1"
        " | tee -i {log}"


rule tuned:
    input:
        lambda wc: steps.workers(CONFIG, wc.dataset, wc.study),
    output:
        choice="results/ablation/{dataset}/{study}/choice.json",
        trials="results/ablation/{dataset}/{study}/trials.csv",
    log:
        "results/logs/tuned/{dataset}.{study}.log",
    wildcard_constraints:
        study=any_of(CONFIG.ablation.tune),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("tuned"),
    message:
        "What the search {wildcards.study} found on the validation subset of {wildcards.dataset}"
    shell:
        "dvfl choose {wildcards.dataset} {wildcards.study} 2>&1 | tee -i {log}"


rule tune_figure:
    input:
        "results/ablation/{dataset}/{study}/trials.csv",
    output:
        report(
            "results/figures/tune/{dataset}.{study}.{picture}.png",
            caption="../report/tune_figure.rst",
            category="Searches",
            subcategory="{study}",
            labels={"dataset": "{dataset}", "study": "{study}", "figure": "{picture}"},
        ),
        "results/figures/tune/{dataset}.{study}.{picture}.pdf",
    log:
        "results/logs/tune_figure/{dataset}.{study}.{picture}.log",
    wildcard_constraints:
        study=any_of(CONFIG.ablation.tune),
        picture=any_of(steps.PICTURES),
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("tune_figure"),
    message:
        "Optuna's {wildcards.picture} of the search {wildcards.study} on {wildcards.dataset}"
    shell:
        "dvfl tune-figure {wildcards.dataset} {wildcards.study} {wildcards.picture} 2>&1 | tee -i {log}"
