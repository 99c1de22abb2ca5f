"""What every opening has to keep to, whatever was found."""


def told(opening):
    """The sentences as one text, after a look at their number and length."""
    lines = list(opening.lines.values())
    assert 2 <= len(lines) <= 5
    for line in lines:
        assert len(line.split()) <= 35 and line[-1] in ".?", line
        assert not {"nan", "inf"} & set(line.replace(",", " ").replace(";", " ").split()), line
    return " ".join(lines)
