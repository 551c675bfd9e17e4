"""Opens a page in headless Chromium as a reader would, and says what went wrong.

Usage: python browser.py CHROMIUM PAGE.html OUT_DIR

Needs nothing but Python. Talks to Chromium over a pipe (--remote-debugging-pipe). Writes OUT_DIR/light.png,
OUT_DIR/dark.png and OUT_DIR/print.pdf; prints a JSON object: `requests` (every address that was asked for but the page's
own), `complaints` (console messages, log entries, exceptions), `background` and `text` (colours in light and dark),
`overflow` (pixels that the page is wider than the window), `figures`, `title`.
"""
import base64, json, os, pathlib, subprocess, sys, tempfile

WIDTH = 1200


class Browser:
    def __init__(self, chromium, profile):
        # Chromium reads commands from its descriptor 3 and writes answers to 4.
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()

        def connect():
            commands, answers = os.dup(read_commands), os.dup(write_answers)
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", f"--window-size={WIDTH},900", "about:blank"]
        self.process = subprocess.Popen([chromium, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, preexec_fn=connect, close_fds=False)
        os.close(read_commands), os.close(write_answers)
        self.buffer, self.number, self.events = b"", 0, []

    def message(self):
        while b"\0" not in self.buffer:
            more = os.read(self.answers, 1 << 20)
            if not more:
                sys.exit("Chromium ended early")
            self.buffer += more
        one, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, session=None, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        os.write(self.commands, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message())


def look(browser, page, out):
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    call = lambda method, **params: browser.call(method, session, **params)
    for domain in ("Page", "Network", "Runtime", "Log"):
        call(f"{domain}.enable")
    browser.events.clear()
    url = page.resolve().as_uri()
    call("Page.navigate", url=url)
    browser.wait_for("Page.loadEventFired")
    value = lambda code: call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")
    found = {"background": {}, "text": {}}
    for scheme in ("light", "dark"):
        call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found["background"][scheme] = value("getComputedStyle(document.body).backgroundColor")
        found["text"][scheme] = value("getComputedStyle(document.querySelector('figure svg text')).fill")
        shot = call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        (out / f"{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
    found["overflow"] = value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    found["figures"] = value("document.querySelectorAll('figure svg').length")
    found["title"] = value("document.title")
    pdf = call("Page.printToPDF", preferCSSPageSize=True)
    (out / "print.pdf").write_bytes(base64.b64decode(pdf["data"]))
    events = [(event.get("method"), event.get("params", {})) for event in browser.events]
    asked = [params["request"]["url"] for method, params in events if method == "Network.requestWillBeSent"]
    found["requests"] = [address for address in asked if address != url]
    complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    found["complaints"] = [params for method, params in events if method in complaints]
    return found


chromium, page, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(chromium, profile)
    try:
        print(json.dumps(look(browser, page, out)))
    finally:
        browser.process.terminate()
        browser.process.wait(timeout=20)
