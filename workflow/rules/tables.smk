rule tables:
    input:
        expand(rules.score.output.scores, experiment=ask.experiments(config)),
        expand(rules.score.output.metrics, experiment=ask.experiments(config)),
        expand(rules.novelty.output.summary, experiment=ask.experiments(config)),
        expand(rules.novelty.output.rows, experiment=ask.experiments(config)),
        expand(rules.ablation.output, ablation=ask.ablations_to_run(config)),
        ask.seconds(config),
        code=ask.code("tables"),
    output:
        tables=report(
            "results/tables.md", caption="../report/tables.rst", category="Tables"
        ),
        cards=expand(
            "results/{experiment}/README.md", experiment=ask.experiments(config)
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
    # On a cluster it runs where Snakemake does: it reads a few small files and takes seconds.
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        run=config["run"],
    shell:
        "python -m rpg tables --run {params.run:q} >{log:q} 2>&1"
