rule novelty:
    input:
        ask.extra("novelty"),
        checkpoints=ask.made("zoo", rules.collect.output),
        tokens=ask.made("tokens", rules.tokens.output.tokens),
        layout=ask.made("tokens", rules.tokens.output.layout),
        stats=ask.made("tokens", rules.tokens.output.stats),
        samples=ask.made("sample", rules.sample.output.manifest),
        scores=ask.made("score", rules.score.output.scores),
        answers=ask.made("score", rules.score.output.answers),
        code=ask.code("novelty"),
    output:
        summary=ensure("results/{experiment}/novelty.json", non_empty=True),
        rows=ensure("results/{experiment}/novelty.csv", non_empty=True),
    log:
        "logs/{experiment}/novelty.log",
    benchmark:
        "logs/{experiment}/novelty.tsv"
    priority: 20
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(3000),
        runtime=ask.runtime(120),
        gpu=0,
    params:
        choices=ask.choices("novelty"),
    shell:
        "python -m rpg novelty --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
