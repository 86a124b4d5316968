rule tables:
    input:
        "params.yaml",
        expand(rules.score.output.scores, experiment=config["run"]),
        expand(rules.train.output.seconds, experiment=config["run"]),
        expand(rules.sample.output.seconds, experiment=config["run"]),
    output:
        tables=report(
            "results/tables.md", caption="../report/tables.rst", category="Tables"
        ),
        metrics="results/metrics.json",
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
        run=config["run"],
    shell:
        "python -m rpg tables >{log:q} 2>&1"
