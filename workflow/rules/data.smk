# Clips, their index, their splits, and what these hold and leak.


localrules:
    arrive,


# Costs no core while it waits, so that the other data sets go on.
rule arrive:
    output:
        "results/data/{dataset}/arrived.json",
    log:
        "results/logs/arrive/{dataset}.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: 0
    resources:
        machine_cores=0,
        mem_mb=200,
    params:
        definition=lambda wc: steps.definition_of_clips(CONFIG, wc.dataset),
    message:
        "Waiting for the files of {wildcards.dataset} that need an account"
    shell:
        "dvfl await {wildcards.dataset} --out {output} 2>&1 | tee -i {log}"


rule fetch_shard:
    input:
        lambda wc: steps.arrived(CONFIG, wc.dataset),
    output:
        "results/data/{dataset}/shards/{shard}.json",
    log:
        "results/logs/fetch/{dataset}.{shard}.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("fetch_shard"),
    params:
        definition=lambda wc: steps.definition_of_clips(CONFIG, wc.dataset),
    message:
        "Fetching shard {wildcards.shard} of {wildcards.dataset}"
    shell:
        "dvfl fetch {wildcards.dataset} --shard {wildcards.shard} --out {output} 2>&1 | tee -i {log}"


rule fetch:
    input:
        lambda wc: steps.fetched_before(CONFIG, wc.dataset),
    output:
        "results/data/{dataset}/fetched.json",
    log:
        "results/logs/fetch/{dataset}.log",
    priority: 20  # everything waits for clips
    conda:
        "../../envs/dvfl.yaml"
    threads: lambda wc: steps.fetch_threads(CONFIG, wc.dataset, needs.cores("fetch"))
    resources:
        **needs("fetch"),
    params:
        definition=lambda wc: steps.definition_of_clips(CONFIG, wc.dataset),
    message:
        "Getting the clips of {wildcards.dataset}"
    shell:
        "dvfl fetch {wildcards.dataset} --workers {threads} --out {output} 2>&1 | tee -i {log}"


rule fetch_released:
    output:
        "results/data/{dataset}/released.json",
    log:
        "results/logs/fetch/{dataset}.released.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("fetch_released"),
    params:
        definition=lambda wc: steps.definition_of_released(CONFIG, wc.dataset),
    message:
        "Getting the lists of {wildcards.dataset} that its owner has not made"
    shell:
        "dvfl fetch {wildcards.dataset} --released --out {output} 2>&1 | tee -i {log}"


rule index_shard:
    input:
        lambda wc: steps.fetched(CONFIG, wc.dataset),
    output:
        "results/data/{dataset}/indexed/{shard}.json",
    log:
        "results/logs/index/{dataset}.{shard}.log",
    priority: 20  # everything waits for clips
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.cores("index_shard")
    resources:
        **needs("index_shard"),
    params:
        definition=lambda wc: steps.definition_of_clips(CONFIG, wc.dataset),
        clips=lambda wc: steps.listing(CONFIG.dataset_definitions[wc.dataset]),
        shards=lambda wc: CONFIG.dataset_definitions[wc.dataset].index_shards,
    message:
        "Reading shard {wildcards.shard} of the clips of {wildcards.dataset}"
    shell:
        "dvfl index {wildcards.dataset} --shard {wildcards.shard} --workers {threads} --out {output} 2>&1 | tee -i {log}"


rule index:
    input:
        lambda wc: steps.index_inputs(CONFIG, wc.dataset),
    output:
        "results/data/{dataset}/index.parquet",
    log:
        "results/logs/index/{dataset}.log",
    priority: 20  # everything waits for clips
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.cores("index")
    resources:
        **needs("index"),
    params:
        definition=lambda wc: steps.definition_of_clips(CONFIG, wc.dataset),
        clips=lambda wc: steps.listing(CONFIG.dataset_definitions[wc.dataset]),
    message:
        "Opening and measuring every clip of {wildcards.dataset}"
    shell:
        "dvfl index {wildcards.dataset} --workers {threads} 2>&1 | tee -i {log}"


rule split:
    input:
        lambda wc: steps.split_inputs(CONFIG, wc.dataset, wc.split),
        index="results/data/{dataset}/index.parquet",
    output:
        "results/data/{dataset}/splits/{split}.csv",
    log:
        "results/logs/split/{dataset}.{split}.log",
    priority: 20  # everything waits for clips
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("split"),
    params:
        definition=lambda wc: steps.definition_of_split(CONFIG, wc.dataset),
    message:
        "Drawing {wildcards.split} of {wildcards.dataset}"
    shell:
        "dvfl split {wildcards.dataset} {wildcards.split} 2>&1 | tee -i {log}"


# There where the config has an input.frame_store.
rule frames:
    input:
        "results/data/{dataset}/index.parquet",
    output:
        "results/data/{dataset}/frames/{store}/{shard}of{shards}.json",
    log:
        "results/logs/frames/{dataset}.{store}.{shard}of{shards}.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.cores("frames")
    resources:
        **needs("frames"),
    message:
        "Decoding the clips of {wildcards.dataset} once, to keep their frames ({wildcards.store})"
    shell:
        "dvfl frames {wildcards.dataset} --store {wildcards.store} --shard {wildcards.shard} --workers {threads}"
        " 2>&1 | tee -i {log}"


rule fingerprint:
    input:
        index="results/data/{dataset}/index.parquet",
    output:
        "results/data/{dataset}/fingerprints.parquet",
    log:
        "results/logs/fingerprint/{dataset}.log",
    conda:
        "../../envs/dvfl.yaml"
    threads: needs.cores("fingerprint")
    resources:
        **needs("fingerprint"),
    message:
        "Hashing the pictures of every clip of {wildcards.dataset}"
    shell:
        "dvfl fingerprint {wildcards.dataset} --workers {threads} 2>&1 | tee -i {log}"


rule audit:
    input:
        lambda wc: steps.audit_inputs(CONFIG, wc.dataset, wc.split),
    output:
        findings="results/data/{dataset}/audit/{split}.csv",
        leaks="results/data/{dataset}/audit/{split}.leaks.csv",
    log:
        "results/logs/audit/{dataset}.{split}.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("audit"),
    params:
        settings=lambda wc: steps.audit_settings(CONFIG, wc.dataset),
    message:
        "Counting what {wildcards.split} of {wildcards.dataset} holds and leaks"
    shell:
        "dvfl audit {wildcards.dataset} {wildcards.split} 2>&1 | tee -i {log}"
