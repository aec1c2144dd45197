"""The guest tests of halligan on a board of labgrid's: each result is read from the console, as KTAP."""

RESULT = r"(not ok|ok) (\d+) (\w+)( # SKIP)?[^\n]*\n"
# Seconds until the board says something more.
PATIENCE = 300


def test_guest_tests(target):
    power = target.get_driver("PowerProtocol", activate=False)
    console = target.get_driver("ConsoleProtocol", activate=False)
    target.activate(power)
    power.off()
    target.activate(console)
    power.on()
    _, _, plan, _ = console.expect(r"KTAP version 1\s+1\.\.(\d+)", timeout=PATIENCE)
    told, failed = 0, []
    while True:
        ending, _, match, _ = console.expect([RESULT, "DONE"], timeout=PATIENCE)
        if ending == 1:
            break
        told += 1
        if match.group(1) == b"not ok":
            failed.append(match.group(3).decode())
    assert not failed
    assert told == int(plan.group(1))
