# Efficiency. A measuring job takes all cores, so that nothing runs beside it.


rule profile:
    input:
        index=lambda wc: steps.profile_inputs(CONFIG, wc.model),
        ready=ancient("results/tracking/ready.json"),
    output:
        "results/profile/{model}.json",
    log:
        "results/logs/profile/{model}.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.measuring_cores("profile")
    resources:
        **needs("profile"),
    params:
        settings=lambda wc: steps.profile_settings(CONFIG, wc.model),
        timed_threads=lambda wc, threads: needs.timed_cores(threads),
    message:
        "Measuring {wildcards.model}, alone on the machine"
    shell:
        "dvfl profile {wildcards.model} --threads {params.timed_threads} 2>&1 | tee -i {log}"


rule profile_larger_batches:
    input:
        index=lambda wc: steps.profile_inputs(CONFIG, wc.model),
        ready=ancient("results/tracking/ready.json"),
    output:
        "results/profile/larger_batches/{model}.json",
    log:
        "results/logs/profile/larger_batches.{model}.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.measuring_cores("profile_larger_batches")
    resources:
        **needs("profile_larger_batches"),
    params:
        settings=lambda wc: steps.profile_settings(CONFIG, wc.model),
        batches=CONFIG.profile.larger_batches,
        timed_threads=lambda wc, threads: needs.timed_cores(threads),
    message:
        "Measuring {wildcards.model} at larger batches, alone on the machine"
    shell:
        "dvfl profile {wildcards.model} --larger --threads {params.timed_threads} 2>&1 | tee -i {log}"


rule larger_batches:
    input:
        [f"results/profile/larger_batches/{model}.json" for model in steps.profiled_models(CONFIG)],


# A target of its own, which no table waits for: `snakemake growth`.
rule growth:
    output:
        table="results/tables/growth.csv",
        page=report(
            "results/tables/growth.html",
            caption="../report/growth.rst",
            category="Tables",
            labels={"table": "growth"},
        ),
        figure=report(
            "results/figures/growth.png",
            caption="../report/growth.rst",
            category="Figures",
            labels={"figure": "growth"},
        ),
        table_formats=[f"results/tables/growth.{ending}" for ending in ("md", "tex")],
        figure_formats=[f"results/figures/growth.{ending}" for ending in ("pdf", "csv")],
    log:
        "results/logs/growth.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.measuring_cores("growth")
    resources:
        **needs("growth"),
    message:
        "Measuring how cost grows, alone on the machine"
    shell:
        "dvfl growth 2>&1 | tee -i {log}"


# Like every table of measured time it is no part of all.csv; the report asks for it.
rule benchmark:
    output:
        table="results/tables/benchmark.csv",
        page=report(
            "results/tables/benchmark.html",
            caption="../report/benchmark.rst",
            category="Tables",
            labels={"table": "benchmark"},
        ),
        markdown="results/tables/benchmark.md",
    log:
        "results/logs/benchmark.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.measuring_cores("benchmark")
    resources:
        **needs("benchmark"),
    params:
        timed_threads=lambda wc, threads: needs.timed_cores(threads),
    message:
        "Measuring fast ways beside plain ones, alone on the machine"
    shell:
        "dvfl bench --quick --threads {params.timed_threads} 2>&1 | tee -i {log}"
