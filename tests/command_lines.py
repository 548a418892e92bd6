"""Command lines read back by the command line itself."""


def flags(command):
    """The settings that a command line of ``tractbench run`` gives, read by the command itself."""
    import shlex

    import typer

    from tractbench.cli import app
    from tractbench.cli.options import parse_settings

    words = shlex.split(command)
    assert words[:2] == ["tractbench", "run"]
    params = typer.main.get_command(app).commands["run"].make_context("run", words[2:]).params
    kept = {name: params[name] for name in params if name in type_fields()}
    return kept | parse_settings(params["setting"] or [])


def type_fields():
    from tractbench.config.fields import RunConfig

    return RunConfig.model_fields
