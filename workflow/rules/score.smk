rule score:
    input:
        ask.manifests,
        samples=rules.sample.output.manifest,
    output:
        scores=ensure("results/{experiment}/scores.json", non_empty=True),
    log:
        "logs/{experiment}/score.log",
    benchmark:
        "logs/{experiment}/score.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        choices=ask.score_choices,
    shell:
        "python -m rpg score --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
