// Changes files in the ways that Node programs have, one way a run: `node ways.js WAY`, in the working directory, with
// `old.dat` of 10,000 bytes there. Exit 0: done. Exit 2: there is no such way. Otherwise it failed.
'use strict';
const fs = require('fs');
const stream = require('stream/promises');
const { Readable } = require('stream');

const text = 'The quick brown fox jumps over the lazy dog\n';

const ways = {
    sync() {
        fs.writeFileSync('f.dat', text.repeat(100));
        fs.appendFileSync('f.dat', 'more\n');
        const fd = fs.openSync('old.dat', 'r+');
        fs.writeSync(fd, text, 5000);
        fs.writeSync(fd, Buffer.from(text), 0, 10);
        fs.writevSync(fd, [Buffer.from('one,'), Buffer.from('two')], 9000);
        fs.writevSync(fd, [Buffer.from('one,'), Buffer.from('two')]);
        fs.ftruncateSync(fd, 9500);
        fs.fsyncSync(fd);
        fs.closeSync(fd);
        fs.truncateSync('old.dat', 9400);
    },
    async promises() {
        await fs.promises.writeFile('f.dat', text);
        await fs.promises.appendFile('f.dat', text);
        const file = await fs.promises.open('old.dat', 'r+');
        await file.write(text, 100);
        await file.write(Buffer.from(text), 0, 5, 7000);
        await file.truncate(8000);
        await file.datasync();
        await file.close();
    },
    callbacks() {
        fs.writeFile('f.dat', text, (error) => {
            if (error) throw error;
            fs.appendFile('f.dat', text, (error) => {
                if (error) throw error;
            });
        });
    },
    async streams() {
        await stream.pipeline(fs.createReadStream('old.dat'), fs.createWriteStream('f.dat'));
        const lines = Array.from({ length: 5000 }, (_, i) => `line ${i}\n`);
        await stream.pipeline(Readable.from(lines), fs.createWriteStream('f.dat', { flags: 'a' }));
    },
    copyFile() {
        fs.copyFileSync('old.dat', 'f.dat');
        fs.copyFileSync('old.dat', 'f.dat', fs.constants.COPYFILE_FICLONE);
    },
    names() {
        fs.writeFileSync('new.tmp', text);
        fs.renameSync('new.tmp', 'old.dat');
        fs.writeFileSync('gone.dat', text);
        fs.rmSync('gone.dat');
    },
};

const way = ways[process.argv[2]];
if (!way) process.exit(2);
Promise.resolve(way()).catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
