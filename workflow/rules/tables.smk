# The steps over several experiments. They read a few small files and take seconds, so on a cluster they run on
# Snakemake's own machine.


rule ablation:
    input:
        pipeline.trials,
    output:
        ensure("results/{ablation}/ablation.json", non_empty=True),
    log:
        "logs/{ablation}/ablation.log",
    benchmark:
        "logs/{ablation}/ablation.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["ablation"].memory_mb,
        runtime=pipeline.SUMMARIES["ablation"].minutes,
    params:
        values=pipeline.ablation,
    shell:
        "python -m rpg ablation --experiment {wildcards.ablation:q} >{log:q} 2>&1"


rule joint:
    input:
        pipeline.joint_inputs,
    output:
        summary=ensure("results/{joint}/joint.json", non_empty=True),
        tables="results/{joint}/README.md",
    log:
        "logs/{joint}/joint.log",
    benchmark:
        "logs/{joint}/joint.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["joint"].memory_mb,
        runtime=pipeline.SUMMARIES["joint"].minutes,
    params:
        values=pipeline.joint,
    shell:
        "python -m rpg joint --experiment {wildcards.joint:q} >{log:q} 2>&1"


rule ablations:
    input:
        expand(rules.ablation.output, ablation=pipeline.ablations()),
        pipeline.source_files(pipeline.SUMMARIES["ablations"].code),
    output:
        tables="results/ablations.md",
        summary="results/ablations.json",
    log:
        "logs/ablations.log",
    benchmark:
        "logs/ablations.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["ablations"].memory_mb,
        runtime=pipeline.SUMMARIES["ablations"].minutes,
    params:
        ablations=pipeline.ablations(),
    shell:
        "python -m rpg ablations >{log:q} 2>&1"


rule peers:
    input:
        expand(rules.ablation.output, ablation=pipeline.comparisons()),
        pipeline.source_files(pipeline.SUMMARIES["peers"].code),
    output:
        page="results/peers.md",
        data="results/peers.json",
    log:
        "logs/peers.log",
    benchmark:
        "logs/peers.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["peers"].memory_mb,
        runtime=pipeline.SUMMARIES["peers"].minutes,
    params:
        comparisons=pipeline.comparisons(),
    shell:
        "python -m rpg peers >{log:q} 2>&1"


rule tables:
    input:
        pipeline.tables_inputs(config),
    output:
        tables=report(
            "results/tables.md", caption="../report/tables.rst", category="Tables"
        ),
        cards=expand(
            "results/{experiment}/README.md", experiment=pipeline.experiments(config)
        ),
        metrics="results/metrics.json",
        scores="results/scores.csv",
        novelty="results/novelty.csv",
        seconds="results/seconds.json",
        times="results/seconds.md",
    log:
        "logs/tables.log",
    benchmark:
        "logs/tables.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["tables"].memory_mb,
        runtime=pipeline.SUMMARIES["tables"].minutes,
    params:
        run=config["run"],
    shell:
        "python -m rpg tables {params.run:q} >{log:q} 2>&1"


rule report:
    input:
        rules.tables.output,
        pipeline.source_files(pipeline.SUMMARIES["report"].code),
        template="workflow/report/report.html.j2",
    output:
        "results/report.html",
    log:
        "logs/report.log",
    benchmark:
        "logs/report.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=pipeline.SUMMARIES["report"].memory_mb,
        runtime=pipeline.SUMMARIES["report"].minutes,
    params:
        run=config["run"],
    shell:
        "python -m rpg report {params.run:q} >{log:q} 2>&1"
