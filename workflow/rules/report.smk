# Tables, figures, and Snakemake's report of them.


rule tables:
    input:
        steps.table_inputs(CONFIG),
        on_demand=steps.tables_made(CONFIG),
        ready=ancient("results/tracking/ready.json"),
    output:
        all="results/tables/all.csv",
        formats=[f"results/tables/all.{ending}" for ending in ("md", "tex", "html")],
        each=[f"results/tables/{table}.{ending}" for table in steps.TABLES for ending in ("csv", "md", "tex")],
        pages=[
            report(
                f"results/tables/{table}.html",
                caption=f"../report/{table}.rst",
                category="Tables",
                labels={"table": table},
            )
            for table in steps.TABLES
        ],
    log:
        "results/logs/tables.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("tables"),
    params:
        settings=steps.report_settings(CONFIG),
    message:
        "Writing the tables"
    shell:
        "dvfl tables 2>&1 | tee -i {log}"


rule figures:
    input:
        steps.figure_inputs(CONFIG),
        tables=[f"results/tables/{table}.csv" for table in steps.TABLES],
        searches=steps.tune_figures(CONFIG),
        ready=ancient("results/tracking/ready.json"),
    output:
        png=[
            report(
                f"results/figures/{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure},
            )
            for figure in steps.FIGURES
        ],
        others=[f"results/figures/{figure}.{ending}" for figure in steps.FIGURES for ending in ("pdf", "csv")],
    log:
        "results/logs/figures.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("figures"),
    params:
        settings=steps.report_settings(CONFIG),
    message:
        "Drawing the figures"
    shell:
        "dvfl figures 2>&1 | tee -i {log}"


rule released_loss:
    output:
        paths.released_loss_path(),
    log:
        "results/logs/released_loss.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("released_loss"),
    message:
        "The released loss beside KL, over temperatures"
    shell:
        "dvfl released-loss --out {output} 2>&1 | tee -i {log}"


rule protocol_effects:
    input:
        lambda wc: steps.protocol_effects_inputs(CONFIG),
    output:
        table="results/tables/protocol_effects.csv",
        page=report(
            "results/tables/protocol_effects.html",
            caption="../report/protocol_effects.rst",
            category="Tables",
            labels={"table": "protocol_effects"},
        ),
        figure=report(
            "results/figures/protocol_effects.png",
            caption="../report/protocol_effects.rst",
            category="Figures",
            labels={"figure": "protocol_effects"},
        ),
        table_formats=[f"results/tables/protocol_effects.{ending}" for ending in ("md", "tex", "txt")],
        figure_formats=[f"results/figures/protocol_effects.{ending}" for ending in ("pdf", "csv")],
    log:
        "results/logs/protocol_effects.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("protocol_effects"),
    params:
        settings=steps.report_settings(CONFIG),
    message:
        "What each difference between the protocols does to the accuracy, alone"
    shell:
        "dvfl protocol-effects 2>&1 | tee -i {log}"


rule report:
    input:
        rules.tables.output.all,
        rules.figures.output.png,
        rules.benchmark.output.table if CONFIG.profile.benchmark else [],
    output:
        "results/report.html",
    log:
        "results/logs/report.log",
    conda:
        "../../envs/dvfl.yaml"
    resources:
        **needs("report"),
    message:
        "Putting all tables and figures on one page"
    shell:
        "dvfl report --out {output} 2>&1 | tee -i {log}"
