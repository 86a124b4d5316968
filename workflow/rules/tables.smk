rule tables:
    input:
        expand(rules.score.output.scores, experiment=ask.run()),
        expand(rules.score.output.metrics, experiment=ask.run()),
        expand(rules.novelty.output.summary, experiment=ask.run()),
        expand(rules.novelty.output.rows, experiment=ask.run()),
        expand(rules.ablation.output, ablation=ask.ablations_to_run()),
        ask.seconds(),
        code=ask.code("tables"),
    output:
        tables=report(
            "results/tables.md", caption="../report/tables.rst", category="Tables"
        ),
        cards=expand("results/{experiment}/README.md", experiment=ask.run()),
        metrics="results/metrics.json",
        scores="results/scores.csv",
        novelty="results/novelty.csv",
        seconds="results/seconds.json",
        times="results/seconds.md",
    log:
        "logs/tables.log",
    benchmark:
        "logs/tables.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        run=ask.run() + ask.ablations_to_run(),
    shell:
        "python -m rpg tables >{log:q} 2>&1"
